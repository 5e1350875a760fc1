package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A request costs meanCost of processor time on average, from half to one and a half of that, and
// waits for a moment in between, as for a database.
const (
	meanCost = 4 * time.Millisecond
	pause    = time.Millisecond
)

// A serviceConfig is the configuration of a service process, which reads it from standard input.
type serviceConfig struct {
	Arm    string
	Rounds uint64 // of spin that take a millisecond
}

// A state is what a service tells of itself, four times a second.
type state struct {
	At          int64 // milliseconds since the epoch
	CPU         float64
	Multipliers map[string]float64 `json:",omitempty"`
	Refusing    bool               `json:",omitempty"`
	Rate        float64            `json:",omitempty"`
	Pressure    float64            `json:",omitempty"`
}

const stateEvery = 250 * time.Millisecond

// serve is the service process: it writes its address and then its states, a line each, until its
// standard input ends.
func serve() error {
	input := json.NewDecoder(os.Stdin)
	var cfg serviceConfig
	if err := input.Decode(&cfg); err != nil {
		return err
	}
	a, err := find(cfg.Arm)
	if err != nil {
		return err
	}
	var g gauges
	wrap, err := a.wrap(&g)
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: wrap(handler(cfg.Rounds)), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	fmt.Println(listener.Addr())
	go tell(&g)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return server.Close()
}

func handler(rounds uint64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		part := uint64(float64(rounds) * meanCost.Seconds() * 1000 * (0.5 + rand.Float64()) / 2)
		for range 2 {
			if r.Context().Err() != nil {
				return // the client has given up
			}
			spin(part)
			time.Sleep(pause / 2)
		}
		_, _ = io.WriteString(w, "done\n")
	})
}

func tell(g *gauges) {
	out := json.NewEncoder(os.Stdout)
	m := &ownCPU{at: time.Now(), used: cpuTime(unix.RUSAGE_SELF)}
	for now := range time.Tick(stateEvery) {
		s := state{At: now.UnixMilli()}
		s.CPU, _, _ = m.Read(now)
		if g.multiplier != nil {
			s.Multipliers = map[string]float64{}
			for _, tier := range []string{"free", "pro", "enterprise"} {
				s.Multipliers[tier] = g.multiplier(tier)
			}
		}
		if g.guard != nil {
			status := g.guard.Status()
			s.Refusing, s.Rate, s.Pressure = status.Refusing, status.Rate, status.Pressure
		}
		if out.Encode(s) != nil {
			return
		}
	}
}
