package servers

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
)

// A containerHost is one container of the Redis image, in which all servers run.
type containerHost struct {
	container testcontainers.Container
}

func newContainerHost(ctx context.Context, ports []string) (host, error) {
	published := make([]string, len(ports))
	same := make(network.PortMap)
	for i, port := range ports {
		published[i] = port + "/tcp"
		same[network.MustParsePort(published[i])] = []network.PortBinding{{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: port}}
	}
	c, err := testcontainers.Run(ctx, cmp.Or(os.Getenv("TEST_REDIS_IMAGE"), "redis:7"),
		testcontainers.WithExposedPorts(published...),
		testcontainers.WithHostConfigModifier(func(c *container.HostConfig) { c.PortBindings = same }),
		testcontainers.WithEntrypoint("sh", "-c", "while :; do sleep 1; done"))
	if err != nil {
		return nil, err
	}
	return &containerHost{container: c}, nil
}

func (h *containerHost) outside() string { return "0.0.0.0" }

func (h *containerHost) start(ctx context.Context, folder string, args []string) (int, error) {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	out, err := h.run(ctx, fmt.Sprintf("mkdir -p /tmp/%[1]s && cd /tmp/%[1]s && { redis-server %[2]s >log 2>&1 & echo $!; }", folder, strings.Join(quoted, " ")))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

func (h *containerHost) signal(ctx context.Context, pid int, name string) error {
	_, err := h.run(ctx, fmt.Sprintf("kill -%s %d", name, pid))
	return err
}

// run lets the container's shell run a script, and returns what it says.
func (h *containerHost) run(ctx context.Context, script string) (string, error) {
	code, out, err := h.container.Exec(ctx, []string{"sh", "-c", script}, exec.Multiplexed())
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(out)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, text)
	}
	return string(text), err
}

func (h *containerHost) write(ctx context.Context, name string, data []byte) (string, error) {
	path := "/tmp/" + name
	return path, h.container.CopyToContainer(ctx, data, path, 0o644)
}

func (h *containerHost) read(ctx context.Context, path string) (string, error) {
	return h.run(ctx, "cat /tmp/"+path)
}

func (h *containerHost) stop() { terminate(h.container)() }
