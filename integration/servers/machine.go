package servers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// A Machine runs Redis servers that a test may kill, freeze and start again, on ports
// that are the same inside and outside of it: servers that tell clients of each other
// need that. It is this computer, or a container. It is for one goroutine.
type Machine struct {
	host  host
	ports []string // those nobody listens on yet
}

// A host is where processes run.
type host interface {
	// start runs redis-server in a folder of its own, with its output in a file named
	// log there, and returns its process id.
	start(ctx context.Context, folder string, args []string) (pid int, err error)
	// signal sends KILL, STOP or CONT to a process that start started.
	signal(ctx context.Context, pid int, name string) error
	// write puts a file where processes can read it, and returns its path there.
	write(ctx context.Context, name string, data []byte) (path string, err error)
	// read returns what is in a file of a folder.
	read(ctx context.Context, path string) (string, error)
	// outside is the address that servers listen on.
	outside() string
	stop()
}

// NewMachine returns a Machine that is able to run as many servers.
func NewMachine(servers int) (*Machine, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	ports, err := freePorts(servers)
	if err != nil {
		return nil, err
	}
	h, err := newHost(ctx, ports)
	if err != nil {
		return nil, fmt.Errorf("start a machine for %d Redis servers: %w", servers, err)
	}
	return &Machine{host: h, ports: ports}, nil
}

func newHost(ctx context.Context, ports []string) (host, error) {
	if useDocker() {
		return newContainerHost(ctx, ports)
	}
	return newLocalHost()
}

// Stop ends all its servers.
func (m *Machine) Stop() { m.host.stop() }

// Write puts a file where its servers can read it, and returns its path for them.
func (m *Machine) Write(name string, data []byte) (path string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return m.host.write(ctx, name, data)
}

// A Process is a server of a Machine.
type Process struct {
	Addr string // 127.0.0.1 and a port
	Port string

	host   host
	folder string
	args   []string
	pid    int
}

// Redis starts a server that keeps nothing on disk, with more arguments of
// redis-server; "PORT" among them is its port. It returns once that answers.
func (m *Machine) Redis(args ...string) (*Process, error) {
	return m.Start("", append([]string{
		"--port", "PORT", "--bind", m.host.outside(), "--protected-mode", "no",
		"--save", "", "--appendonly", "no",
	}, args...)...)
}

// Start starts redis-server with these arguments alone, and with a configuration file
// that it may rewrite if there is a config.
func (m *Machine) Start(config string, args ...string) (*Process, error) {
	if len(m.ports) == 0 {
		return nil, errors.New("this machine has no port left")
	}
	p := &Process{Port: m.ports[0], Addr: "127.0.0.1:" + m.ports[0], host: m.host, folder: "redis-" + m.ports[0]}
	m.ports = m.ports[1:]
	if config != "" {
		path, err := m.Write("redis-"+p.Port+".conf", []byte(strings.ReplaceAll(config, "PORT", p.Port)))
		if err != nil {
			return nil, err
		}
		p.args = append(p.args, path)
	}
	for _, arg := range args {
		p.args = append(p.args, strings.ReplaceAll(arg, "PORT", p.Port))
	}
	return p, p.Start()
}

// Start starts the server again, after Kill: it remembers nothing. It returns once it
// answers.
func (p *Process) Start() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	pid, err := p.host.start(ctx, p.folder, p.args)
	if err != nil {
		return fmt.Errorf("start redis-server on port %s: %w", p.Port, err)
	}
	p.pid = pid
	// Whether it is dialled says little: a container's ports are open before it is.
	return until(ctx, func() error {
		log, err := p.host.read(ctx, p.folder+"/log")
		if err == nil && !strings.Contains(log, "Ready to accept connections") && !strings.Contains(log, "Sentinel ID is") {
			err = fmt.Errorf("redis-server %s is not ready: %s", strings.Join(p.args, " "), log)
		}
		return err
	})
}

// Kill ends the server as a crash does.
func (p *Process) Kill() error { return p.signal("KILL") }

// Freeze stops the server without ending it: its connections stay, and nobody is
// answered until Thaw.
func (p *Process) Freeze() error { return p.signal("STOP") }

// Thaw lets a frozen server go on, with all it was sent meanwhile.
func (p *Process) Thaw() error { return p.signal("CONT") }

func (p *Process) signal(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := p.host.signal(ctx, p.pid, name); err != nil {
		return fmt.Errorf("%s to redis-server on port %s: %w", name, p.Port, err)
	}
	return nil
}

// freePorts returns ports nobody listens on, all below where a Cluster's servers can
// find room for their second one, which is 10,000 higher.
func freePorts(n int) ([]string, error) {
	var ports []string
	var open []net.Listener
	defer func() {
		for _, l := range open {
			l.Close()
		}
	}()
	for port := 21000 + int(time.Now().UnixNano()/1000%8000); len(ports) < n; port++ {
		if port > 45000 {
			return nil, errors.New("no free ports")
		}
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		open = append(open, l)
		bus, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port+10000))
		if err != nil {
			continue
		}
		open = append(open, bus)
		ports = append(ports, strconv.Itoa(port))
	}
	return ports, nil
}
