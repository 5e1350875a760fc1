package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	bucketLength = 5 * time.Second
	// afterwards is the load after the overload, and after a while without any.
	afterwards = 0.5
)

// An experiment runs every arm under every load, in turn.
type experiment struct {
	rounds  int
	length  time.Duration
	loads   []float64
	idle    time.Duration // after the overload
	after   time.Duration // and then, with half of what the service can do
	arms    []arm
	verbose bool
	note    string

	rate       uint64    // rounds of spin in a millisecond
	capacities []float64 // requests a second, by round
	results    map[string][]*result
	refusal    time.Duration // of processor time
}

// A result is what one arm did in one round.
type result struct {
	capacity float64
	phases   []phase
	measured []measured
	states   []state
}

func (e *experiment) run() (err error) {
	if e.rate, err = roundsPerMillisecond(); err != nil {
		return err
	}
	e.results = make(map[string][]*result)
	for round := range e.rounds {
		capacity, err := e.calibrate()
		if err != nil {
			return err
		}
		e.capacities = append(e.capacities, capacity)
		fmt.Fprintf(os.Stderr, "round %d: %.0f requests a second\n", round+1, capacity)
		for i := range e.arms {
			a := e.arms[(i+round)%len(e.arms)]
			r, err := e.measure(a, capacity, uint64(round))
			if err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
			e.results[a.name] = append(e.results[a.name], r)
			fmt.Fprintf(os.Stderr, "%-14s %s\n", a.name, r.summary())
		}
	}
	e.refusal, err = e.measureRefusal()
	return err
}

// calibrate returns how many requests a second the service can answer with nothing before it.
func (e *experiment) calibrate() (perSecond float64, err error) {
	none, err := find("none")
	if err != nil {
		return 0, err
	}
	_, err = e.against(none, func(addr string) error {
		return child(generatorCPU, "generator", generatorConfig{Addr: addr, Closed: 4 * time.Second, Status: http.StatusOK}, &perSecond)
	})
	return perSecond, err
}

// measureRefusal returns the processor time that a service takes to refuse a request, net/http and
// the network included.
func (e *experiment) measureRefusal() (time.Duration, error) {
	var perSecond float64
	states, err := e.against(refusing, func(addr string) error {
		return child(generatorCPU, "generator", generatorConfig{Addr: addr, Closed: 2 * time.Second, Status: http.StatusServiceUnavailable}, &perSecond)
	})
	var shares []float64
	for _, s := range states {
		shares = append(shares, s.CPU)
	}
	if err != nil || perSecond == 0 || len(shares) == 0 {
		return 0, errorOr(err, errors.New("nothing was refused"))
	}
	return time.Duration(middle(shares) / perSecond * float64(time.Second)), nil
}

// measure puts an arm under the loads in ascending order, then leaves it idle, then asks for half
// of what it can do.
func (e *experiment) measure(a arm, capacity float64, seed uint64) (*result, error) {
	r := &result{capacity: capacity}
	for _, l := range e.loads {
		r.phases = append(r.phases, phase{l, l * capacity, e.length})
	}
	r.phases = append(r.phases, phase{0, 0, e.idle}, phase{afterwards, afterwards * capacity, e.after})
	states, err := e.against(a, func(addr string) error {
		return child(generatorCPU, "generator", generatorConfig{Addr: addr, Seed: seed, Phases: r.phases}, &r.measured)
	})
	r.states = states
	return r, err
}

// against starts a service with an arm, lets do ask it, and returns what the service told.
func (e *experiment) against(a arm, do func(addr string) error) (states []state, err error) {
	cmd, input, err := childCommand("service", serviceConfig{Arm: a.name, Rounds: e.rate})
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := startOn(serviceCPU, cmd); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(output)
	addr, err := lines.ReadString('\n')
	if err != nil {
		return nil, errors.Join(err, cmd.Wait())
	}
	told := make(chan error, 1)
	go func() {
		decoder := json.NewDecoder(lines)
		for {
			var s state
			if err := decoder.Decode(&s); err != nil {
				told <- err
				return
			}
			if e.verbose {
				fmt.Fprintf(os.Stderr, "%+v\n", s)
			}
			states = append(states, s)
		}
	}()
	err = do(strings.TrimSpace(addr))
	_ = input.Close()
	if ended := <-told; !errors.Is(ended, io.EOF) {
		err = errorOr(err, ended)
	}
	return states, errorOr(err, cmd.Wait())
}

// childCommand returns this program as one side, which has config as the first line of its standard
// input. The caller closes input to end a service.
func childCommand(side string, config any) (cmd *exec.Cmd, input io.Closer, err error) {
	text, err := json.Marshal(config)
	if err != nil {
		return nil, nil, err
	}
	own, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd = exec.Command(own)
	cmd.Env = append(os.Environ(), childVariable+"="+side, "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	read, write := io.Pipe()
	cmd.Stdin = read
	go func() { _, _ = write.Write(append(text, '\n')) }()
	return cmd, write, nil
}

// child runs one side to its end on a processor, and decodes what it writes.
func child(cpu int, side string, config, answer any) error {
	cmd, input, err := childCommand(side, config)
	if err != nil {
		return err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := startOn(cpu, cmd); err != nil {
		return err
	}
	err = json.NewDecoder(output).Decode(answer)
	_ = input.Close()
	return errorOr(err, cmd.Wait())
}
