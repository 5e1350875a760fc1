package rig

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/integration/servers"
)

// A Replica is one `tierlimit serve`.
type Replica struct {
	Public, Admin string // URLs

	process *os.Process
	ended   chan struct{}
	err     error // set when ended is closed

	mu    sync.Mutex
	lines bytes.Buffer // guarded by mu
}

// StartReplica starts the binary with arguments of serve, and returns once it serves.
func StartReplica(binary string, args ...string) (*Replica, error) {
	cmd := exec.Command(binary, append([]string{"serve", "--addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--drain", "100ms"}, args...)...)
	cmd.SysProcAttr = servers.EndWithParent(nil)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &Replica{process: cmd.Process, ended: make(chan struct{})}
	serving := make(chan struct{}, 1)
	go func() {
		defer close(r.ended)
		for scan := bufio.NewScanner(stderr); scan.Scan(); {
			r.note(scan.Bytes(), serving)
		}
		r.err = cmd.Wait()
	}()
	select {
	case <-serving:
		return r, nil
	case <-r.ended:
		return nil, fmt.Errorf("serve ended: %w: %s", r.err, r.Log())
	case <-time.After(time.Minute):
		r.Kill()
		return nil, fmt.Errorf("serve did not start: %s", r.Log())
	}
}

func (r *Replica) note(line []byte, serving chan<- struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines.Write(line)
	r.lines.WriteByte('\n')
	var said struct{ Msg, Public, Admin string }
	if json.Unmarshal(line, &said) == nil && said.Msg == "serving" {
		r.Public, r.Admin = "http://"+said.Public, "http://"+said.Admin
		serving <- struct{}{}
	}
}

// Log is what it has said so far.
func (r *Replica) Log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines.String()
}

// Decide asks for a decision.
func (r *Replica) Decide(verb, subject string) (d tierlimit.Decision, err error) {
	err = r.post(verb, fmt.Sprintf(`{"subject":%q}`, subject), &d)
	return d, err
}

// Hold charges a subject 1 with a hold of the duration life.
func (r *Replica) Hold(subject string, life time.Duration) (d tierlimit.Decision, err error) {
	err = r.post("take", fmt.Sprintf(`{"subject":%q,"hold_ms":%d}`, subject, life.Milliseconds()), &d)
	return d, err
}

// Settle settles a hold at cost and reports whether the hold was open.
func (r *Replica) Settle(id string, cost int64) (found bool, err error) {
	var said struct{ Settled bool }
	err = r.post("settle", fmt.Sprintf(`{"id":%q,"cost":%d}`, id, cost), &said)
	return said.Settled, err
}

// Status sends a request to the admin listener and returns the status, or 0 on an error.
func (r *Replica) Status(method, path, body string) int {
	status, _, err := r.ask(method, r.Admin+path, body)
	if err != nil {
		return 0
	}
	return status
}

// post sends a request to /v1 and decodes the response into answer.
func (r *Replica) post(verb, body string, answer any) error {
	status, text, err := r.ask("POST", r.Public+"/v1/"+verb, body)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d: %s", status, text)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(text, answer)
}

// Asker returns a function that asks for a decision on one of so many connections, which
// many goroutines may call, and one that closes the connections.
func (r *Replica) Asker(connections int) (ask func(subject string) (tierlimit.Decision, error), hangUp func()) {
	many := &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections, DisableCompression: true},
	}
	ask = func(subject string) (d tierlimit.Decision, err error) {
		req, err := http.NewRequest(http.MethodPost, r.Public+"/v1/take", strings.NewReader(fmt.Sprintf(`{"subject":%q}`, subject)))
		if err != nil {
			return d, err
		}
		req.Header.Set("Authorization", "Bearer "+AdminToken)
		resp, err := many.Do(req)
		if err != nil {
			return d, err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%d: %s", resp.StatusCode, answer)
		}
		if err != nil {
			return d, err
		}
		return d, json.Unmarshal(answer, &d)
	}
	return ask, many.CloseIdleConnections
}

// Kill ends it as a crash does, and returns once it has.
func (r *Replica) Kill() {
	_ = r.process.Kill() // it may have ended
	<-r.ended
}

// Terminate asks it to stop, and returns how it ended.
func (r *Replica) Terminate() error {
	if err := r.process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-r.ended
	return r.err
}

// Ended reports whether it runs no more.
func (r *Replica) Ended() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// Memory is how much of it is in memory, in bytes; 0 where that cannot be told.
func (r *Replica) Memory() int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", r.process.Pid))
	fields := strings.Fields(string(data))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// Descriptors is how many files and connections it has open; 0 where that cannot be
// told.
func (r *Replica) Descriptors() int {
	list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.process.Pid))
	return len(list)
}
