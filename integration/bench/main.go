package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit/integration/servers"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	rounds := flag.Int("rounds", 5, "rounds; what is reported are medians")
	length := flag.Duration("time", time.Second, "how long each measurement takes")
	only := flag.String("only", "", "workloads to run, between commas (default all)")
	who := flag.String("who", "", "contenders to run, between commas (default all)")
	profile := flag.String("cpuprofile", "", "write a CPU profile of this process to a file")
	numbers := flag.String("callers", "1,64,1024", "how many ask at a time")
	flag.Parse()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}

	server, err := servers.Redis()
	if err != nil {
		return err
	}
	defer server.Stop()
	b := newBench(strings.TrimPrefix(server.URL, "redis://"))
	var callers []int
	for _, text := range strings.Split(*numbers, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("-callers %q: must be whole numbers between commas, such as 1,64,1024", *numbers)
		}
		callers = append(callers, n)
	}
	for _, w := range workloads() {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), w.name) {
			continue
		}
		if *who != "" {
			w.among = slices.DeleteFunc(slices.Clone(w.among), func(c contender) bool {
				return !slices.Contains(strings.Split(*who, ","), c.name)
			})
		}
		table := newTable(&w, callers)
		draws := w.draws()
		for range *rounds {
			for _, c := range w.among {
				results, err := b.measure(c, &w, draws, callers, *length)
				if err != nil {
					return err
				}
				table.add(c.name, results)
			}
		}
		table.print(os.Stdout)
	}
	return nil
}
