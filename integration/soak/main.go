// Soak puts the service under a steady load for as long as it is told, lets something
// fail now and then, and ends with a verdict: was anybody kept waiting, is every charge
// accounted for, did memory or descriptors grow.
//
//	go run ./integration/soak -rate 1000 -duration 10m -replicas 3 -every 1m
//
// The load is open: requests are due at their time, whatever became of those before,
// and a latency is from when a request was due.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit/integration/rig"
	"github.com/tierlimit/tierlimit/integration/servers"
)

type options struct {
	rate, replicas, subjects int
	duration, every, lasting time.Duration
	budget, slack            time.Duration
	seed                     uint64
	only                     string
	out                      string
}

func main() {
	var o options
	flag.IntVar(&o.rate, "rate", 1000, "requests a second")
	flag.DurationVar(&o.duration, "duration", 10*time.Minute, "how long")
	flag.IntVar(&o.replicas, "replicas", 3, "how many of `tierlimit serve`")
	flag.IntVar(&o.subjects, "subjects", 200, "how many subjects are charged")
	flag.DurationVar(&o.every, "every", time.Minute, "between two faults; 0 for none")
	flag.DurationVar(&o.lasting, "lasting", 10*time.Second, "how long a fault lasts")
	flag.DurationVar(&o.budget, "budget", 100*time.Millisecond, "of a decision")
	flag.DurationVar(&o.slack, "slack", 10*time.Millisecond, "what an answer may take beside the budget")
	flag.Uint64Var(&o.seed, "seed", 1, "of the order of the faults")
	flag.StringVar(&o.only, "fault", "", "let nothing but this fail, by its name")
	flag.StringVar(&o.out, "o", "", "a file that the verdict is written to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	held, err := soak(ctx, &o, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(2)
	}
	if !held {
		os.Exit(1)
	}
}

func soak(ctx context.Context, o *options, out io.Writer) (held bool, err error) {
	plan, err := schedule(o)
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "tierlimit-soak-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "tierlimit")
	if text, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/tierlimit/tierlimit/cmd/tierlimit").CombinedOutput(); err != nil {
		return false, fmt.Errorf("build: %w: %s", err, text)
	}
	postgres, err := servers.Postgres()
	if err != nil {
		return false, err
	}
	defer postgres.Stop()
	r, err := rig.New(rig.Config{Binary: binary, Database: postgres.URL, Replicas: o.replicas, Budget: o.budget})
	if err != nil {
		return false, err
	}
	defer r.Close()
	subjects, err := addSubjects(ctx, r, postgres.URL, o.subjects)
	if err != nil {
		return false, err
	}
	b := newBook(subjects)
	run := r.Start(rig.Load{Rate: o.rate, Subjects: subjects, Each: b.write})
	s := &site{Rig: r, run: run, book: b, random: rand.New(rand.NewPCG(o.seed, 1))}
	err = s.live(ctx, o, plan, out)
	run.Stop()
	if err != nil {
		return false, err
	}
	v, err := s.verdict(o)
	if err != nil {
		return false, err
	}
	text := v.String()
	fmt.Fprint(out, text)
	if o.out != "" {
		err = os.WriteFile(o.out, []byte(text), 0o644)
	}
	return v.held(), err
}

// addSubjects puts subjects on the tier that counts and never denies.
func addSubjects(ctx context.Context, r *rig.Rig, database string, n int) ([]string, error) {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `INSERT INTO tierlimit.subjects (id, tier) SELECT 'soak-' || i, $1 FROM generate_series(1, $2) i`, rig.Counted, n); err != nil {
		return nil, err
	}
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint("soak-", i+1)
	}
	return list, r.Await(30*time.Second, "all replicas know the subjects", func() bool {
		for _, one := range r.Replicas {
			for _, id := range list {
				if d, err := one.Decide("peek", id); err != nil || d.Tier != rig.Counted || d.Degraded {
					return false
				}
			}
		}
		return true
	})
}

var errEarly = errors.New("interrupted")
