package servers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// A localHost is this computer.
type localHost struct {
	binary, dir string
	running     map[int]*exec.Cmd
}

func newLocalHost() (host, error) {
	binary, err := Binary("redis-server")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tierlimit-machine-")
	return &localHost{binary: binary, dir: dir, running: make(map[int]*exec.Cmd)}, err
}

func (h *localHost) outside() string { return "127.0.0.1" }

func (h *localHost) start(_ context.Context, folder string, args []string) (int, error) {
	dir := filepath.Join(h.dir, folder)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.Command(h.binary, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = EndWithParent(nil)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	h.running[cmd.Process.Pid] = cmd
	return cmd.Process.Pid, nil
}

var signals = map[string]syscall.Signal{"KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}

func (h *localHost) signal(_ context.Context, pid int, name string) error {
	cmd := h.running[pid]
	if cmd == nil {
		return fmt.Errorf("process %d is none of this machine's", pid)
	}
	if err := cmd.Process.Signal(signals[name]); err != nil {
		return err
	}
	if name == "KILL" {
		_ = cmd.Wait() // it says that it was killed
		delete(h.running, pid)
	}
	return nil
}

func (h *localHost) write(_ context.Context, name string, data []byte) (string, error) {
	path := filepath.Join(h.dir, name)
	return path, os.WriteFile(path, data, 0o644)
}

func (h *localHost) read(_ context.Context, path string) (string, error) {
	data, err := os.ReadFile(filepath.Join(h.dir, path))
	return string(data), err
}

func (h *localHost) stop() {
	for _, cmd := range h.running {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	_ = os.RemoveAll(h.dir)
}
