package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// childVariable says which side a process is, in the environment.
const childVariable = "OVERLOAD_CHILD"

func main() {
	var err error
	switch os.Getenv(childVariable) {
	case "service":
		err = serve()
	case "generator":
		err = generate()
	default:
		err = run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "overload:", err)
		os.Exit(1)
	}
}

func run() error {
	rounds := flag.Int("rounds", 3, "rounds; what is reported are medians")
	length := flag.Duration("time", 15*time.Second, "how long each load lasts, a multiple of 5s")
	quick := flag.Bool("quick", false, "one round of 5s each, at 2 and 5 times the capacity: for development")
	loads := flag.String("loads", "", "loads to measure, as parts of the capacity in ascending order, between commas (default 0.7,0.8,1,2,5)")
	only := flag.String("arms", "", "what to measure, between commas (default all)")
	out := flag.String("o", "", "write overload.md and overload.svg to this folder (default: print)")
	verbose := flag.Bool("v", false, "print what each service tells of itself")
	note := flag.String("note", "", "a sentence about the circumstances, for the document")
	flag.Parse()
	e := &experiment{rounds: *rounds, length: *length, idle: 5 * time.Second, after: 4 * bucketLength, loads: []float64{0.7, 0.8, 1, 2, 5}, arms: arms, verbose: *verbose, note: *note}
	if *quick {
		e.rounds, e.length, e.loads, e.idle, e.after = 1, bucketLength, []float64{2, 5}, time.Second, bucketLength
	}
	if e.rounds < 1 {
		return fmt.Errorf("-rounds %d: must be 1 or more", e.rounds)
	}
	if e.length < bucketLength || e.length%bucketLength != 0 {
		return fmt.Errorf("-time %v: must be a multiple of %v", e.length, bucketLength)
	}
	if *loads != "" {
		e.loads = nil
		for text := range strings.SplitSeq(*loads, ",") {
			l, err := strconv.ParseFloat(text, 64)
			if err != nil || !(l > 0 && l <= 20) || len(e.loads) > 0 && l <= e.loads[len(e.loads)-1] {
				return fmt.Errorf("-loads %q: must be numbers from 0 to 20 in ascending order between commas, such as 0.7,2,5", *loads)
			}
			e.loads = append(e.loads, l)
		}
	}
	if *only != "" {
		e.arms = nil
		for name := range strings.SplitSeq(*only, ",") {
			a, err := find(name)
			if err != nil {
				return err
			}
			e.arms = append(e.arms, a)
		}
	}
	if err := e.run(); err != nil {
		return err
	}
	if *out == "" {
		e.write(os.Stdout)
		return nil
	}
	return e.save(*out)
}

func find(name string) (arm, error) {
	if name == refusing.name {
		return refusing, nil
	}
	i := slices.IndexFunc(arms, func(a arm) bool { return a.name == name })
	if i < 0 {
		var names []string
		for _, a := range arms {
			names = append(names, a.name)
		}
		return arm{}, fmt.Errorf("arm %q: must be one of %s", name, strings.Join(names, ", "))
	}
	return arms[i], nil
}
