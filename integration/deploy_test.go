package integration

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tierlimit/tierlimit/integration/servers"
)

// An image is what `docker image inspect` says of an image.
type image struct {
	ID           string `json:"Id"`
	Created      string
	Architecture string
	Os           string
	Config       struct {
		User         string
		Entrypoint   []string
		Cmd          []string
		Env          []string
		ExposedPorts map[string]any
		Volumes      map[string]any
		Labels       map[string]string
	}
	RootFS struct{ Layers []string }
}

// releaseOf is the version that these tests build.
const releaseOf = "v9.8.7"

// Two builds, of the same sources in two places, are the same. What is built serves without a
// shell, without a file system that it may write, without rights, and with its secrets in files.
// Where there is no Docker engine (TEST_SERVERS=local), the binary runs in an empty root instead.
func TestTheImageServes(t *testing.T) {
	if !servers.Docker() && runtime.GOOS != "linux" {
		t.Fatal("the binary of the image needs Linux or a Docker engine: start one")
	}
	platform := "linux/" + runtime.GOARCH
	folders, names := []string{t.TempDir(), t.TempDir()}, []string{"tierlimit-test/image:one", "tierlimit-test/image:two"}
	for i, sources := range []string{"..", copyOfSources(t)} {
		args := []string{releaseOf, folders[i]}
		if servers.Docker() {
			args = append(args, names[i])
			t.Cleanup(func() { _ = exec.Command("docker", "image", "rm", "-f", names[i]).Run() })
		}
		output(t, filepath.Join(sources, "deploy/image"), args...)
	}
	binary := make([][]byte, 2)
	for i := range folders {
		var err error
		binary[i], err = os.ReadFile(filepath.Join(folders[i], platform, "tierlimit"))
		must(t, err)
	}
	if !slices.Equal(binary[0], binary[1]) {
		t.Error("two builds of the same sources made two binaries")
	}
	if servers.Docker() {
		checkImages(t, inspect(t, names[0]), inspect(t, names[1]))
	}

	database := newDatabase(t)
	must(t, os.Mkdir(filepath.Join(folders[0], "secrets"), 0o755))
	for name, text := range map[string]string{"database-url": database, "redis-url": redisServer.URL, "admin-token": adminToken} {
		must(t, os.WriteFile(filepath.Join(folders[0], "secrets", name), []byte(text+"\n"), 0o644))
	}
	run := inEmptyRoot(folders[0], "/"+platform+"/tierlimit")
	if servers.Docker() {
		run = inContainer(names[0], filepath.Join(folders[0], "secrets"))
	}
	version, err := run(t, "version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(version), "tierlimit "+releaseOf+" ") {
		t.Errorf("version: %v: %s", err, version)
	}
	r := startServe(t, run(t, "serve"))
	r.want(200, "GET", r.public+"/readyz", "")
	if d := r.must("take", newSubject(t)); !d.Allowed || d.Degraded || d.Tier != "free" {
		t.Errorf("a decision of the image: %+v", d)
	}
	must(t, r.process.Signal(syscall.SIGTERM))
	if err := <-r.ended; err != nil {
		t.Errorf("it was told to stop, and ended with: %v: %s", err, r.log())
	}
}

var variables = regexp.MustCompile(`\bTIERLIMIT_[A-Z][A-Z_]*[A-Z]\b`)

// A variable that the program does not know is ignored, so nobody would notice a wrong name.
func TestTheDeployFilesNameOnlyVariablesThatExist(t *testing.T) {
	file, err := binary()
	must(t, err)
	config, _ := exec.CommandContext(t.Context(), file, "config").Output() // it fails, as it lacks secrets
	known := map[string]bool{
		"TIERLIMIT_IMAGE": true, // of compose.yaml
		"TIERLIMIT_TOKEN": true, // of the commands for administrators
	}
	for _, name := range variables.FindAllString(string(config), -1) {
		known[name] = true
		known[name+"_FILE"] = true
	}
	for _, folder := range []string{"../deploy", "../docs/deploy.md", "../docs/upgrade.md"} {
		must(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			for _, name := range variables.FindAllString(string(text), -1) {
				if !known[name] {
					t.Errorf("%s: there is no %s", path, name)
				}
			}
			return err
		}))
	}
}

// checkImages checks that two images are the same, and that they are as deploy/Dockerfile says.
func checkImages(t *testing.T, one, two image) {
	t.Helper()
	if len(one.RootFS.Layers) != 1 || one.Config.User != "65532:65532" || !slices.Equal(one.Config.Entrypoint, []string{"/tierlimit"}) ||
		!slices.Equal(one.Config.Cmd, []string{"serve"}) || len(one.Config.ExposedPorts) != 3 || one.Config.Volumes != nil ||
		one.Config.Labels["org.opencontainers.image.version"] != releaseOf {
		t.Errorf("the image is %+v", one)
	}
	// An engine without a newer BuildKit writes the time of the build into an image, and so into
	// its ID. All else is compared.
	if one.Created != two.Created {
		one.ID, two.ID, one.Created, two.Created = "", "", "", ""
	}
	if !reflect.DeepEqual(one, two) {
		t.Errorf("two builds of the same sources made two images:\n%+v\n%+v", one, two)
	}
}

// environment is what serve is told, beside its secrets.
func environment() []string {
	return []string{
		"TIERLIMIT_DATABASE_URL_FILE=/secrets/database-url", "TIERLIMIT_REDIS_URL_FILE=/secrets/redis-url", "TIERLIMIT_ADMIN_TOKEN_FILE=/secrets/admin-token",
		"TIERLIMIT_ADDR=127.0.0.1:0", "TIERLIMIT_ADMIN_ADDR=127.0.0.1:0", "TIERLIMIT_LOAD_MODE=off", "TIERLIMIT_DRAIN=100ms", "TIERLIMIT_BUDGET=2s",
	}
}

// inContainer returns a function that runs the image as Kubernetes does, on the network of the
// host, where Redis and Postgres have their ports.
func inContainer(name, secrets string) func(*testing.T, ...string) *exec.Cmd {
	return func(t *testing.T, args ...string) *exec.Cmd {
		t.Helper()
		container := "tierlimit-" + newSubject(t)
		options := []string{
			"run", "--rm", "--name", container, "--network", "host", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
			"--volume", secrets + ":/secrets:ro",
		}
		for _, e := range environment() {
			options = append(options, "--env", e)
		}
		t.Cleanup(func() { _ = exec.Command("docker", "rm", "-f", container).Run() })
		cmd := exec.Command("docker", slices.Concat(options, []string{name}, args)...)
		cmd.SysProcAttr = servers.EndWithParent(nil)
		return cmd
	}
}

// inEmptyRoot returns a function that runs the binary as the image does, in a folder that is its
// root, as the user of the image. That takes root; anybody else runs the binary as it is.
func inEmptyRoot(folder, binary string) func(*testing.T, ...string) *exec.Cmd {
	return func(t *testing.T, args ...string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command(binary, args...)
		cmd.Dir, cmd.Env = "/", environment()
		cmd.SysProcAttr = servers.EndWithParent(nil)
		if os.Geteuid() == 0 {
			cmd.SysProcAttr.Chroot = folder
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65532, Gid: 65532}
			return cmd
		}
		cmd.Path = folder + binary
		for i := range cmd.Env {
			cmd.Env[i] = strings.Replace(cmd.Env[i], "=/secrets/", "="+folder+"/secrets/", 1)
		}
		return cmd
	}
}

func inspect(t *testing.T, name string) image {
	t.Helper()
	var list []image
	must(t, json.Unmarshal([]byte(output(t, "docker", "image", "inspect", name)), &list))
	return list[0]
}

// output runs a command and returns what it prints. A command that fails ends the test.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var failure strings.Builder
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, failure.String())
	}
	return string(out)
}

// copyOfSources copies what the image is built from to another folder.
func copyOfSources(t *testing.T) string {
	t.Helper()
	to := t.TempDir()
	must(t, filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel("..", path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if slices.Contains([]string{".git", ".cache", "bin", "docs", "integration"}, rel) {
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), text, info.Mode())
	}))
	return to
}
