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
	if args := strings.Fields(os.Getenv(childVariable)); len(args) > 0 {
		fmt.Fprintln(os.Stderr, "bench:", serveChild(args))
		os.Exit(1)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	rounds := flag.Int("rounds", 5, "rounds; what is reported are medians")
	length := flag.Duration("time", time.Second, "how long each measurement takes")
	only := flag.String("only", "", "what to run, between commas: uniform, ceiling, warm, new, three, zipf, held, heldhot, denied, allowed, valkey, cluster, envoy, envoy3, memory, http, proxy (default all)")
	who := flag.String("who", "", "contenders to run, between semicolons (default all)")
	profile := flag.String("cpuprofile", "", "write a CPU profile of this process to a file")
	numbers := flag.String("callers", "1,64,1024", "how many ask at a time")
	out := flag.String("o", "", "write benchmarks.md and benchmarks.svg to this folder")
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
	for text := range strings.SplitSeq(*numbers, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("-callers %q: must be whole numbers between commas, such as 1,64,1024", *numbers)
		}
		callers = append(callers, n)
	}
	chosen := func(name string) bool { return *only == "" || slices.Contains(strings.Split(*only, ","), name) }
	rep := &report{rounds: *rounds, length: *length, ceilings: map[string][]float64{}, http: map[string][]httpResult{}}
	for _, w := range workloads() {
		if !chosen(w.name) {
			continue
		}
		if *who != "" {
			w.among = slices.DeleteFunc(slices.Clone(w.among), func(c contender) bool {
				return !slices.Contains(strings.Split(*who, ";"), c.name)
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
			if w.name == "uniform" && chosen("ceiling") {
				if err := rep.addCeilings(b); err != nil {
					return err
				}
			}
		}
		table.print(os.Stdout)
		rep.tables = append(rep.tables, table)
	}
	if valkey, err := servers.Valkey(); err == nil && chosen("valkey") {
		rep.valkey, err = elsewhere("on Valkey", newBench(strings.TrimPrefix(valkey.URL, "redis://")), contenders[:2], callers, *rounds, *length)
		valkey.Stop()
		if err != nil {
			return err
		}
	}
	if chosen("cluster") {
		if rep.cluster, err = measureCluster(callers, *rounds, *length); err != nil {
			return err
		}
	}
	if chosen("memory") {
		if err := rep.addMemory(b); err != nil {
			return err
		}
	}
	for _, group := range []string{overHTTP, throughProxy} {
		if !chosen(group) {
			continue
		}
		for range *rounds {
			for _, g := range guards {
				if g.group != group {
					continue
				}
				if *who != "" && !slices.Contains(strings.Split(*who, ";"), g.name) {
					continue
				}
				res, err := b.measureHTTP(g, 2*(*length))
				if err != nil {
					return err
				}
				rep.http[g.name] = append(rep.http[g.name], res)
			}
		}
	}
	if *out == "" {
		rep.writeCeilings(os.Stdout)
		rep.writeMemory(os.Stdout)
		rep.writeHTTP(os.Stdout)
		return nil
	}
	return rep.save(*out)
}

// measureCluster measures ours on a Cluster of three masters.
func measureCluster(callers []int, rounds int, length time.Duration) (*table, error) {
	const masters = 3
	machine, err := servers.NewMachine(masters)
	if err != nil {
		return nil, err
	}
	defer machine.Stop()
	cluster, err := servers.NewCluster(machine, masters, false)
	if err != nil {
		return nil, err
	}
	var addrs []string
	for _, p := range cluster.Masters {
		addrs = append(addrs, "127.0.0.1:"+p.Port)
	}
	return elsewhere("on a Cluster of three masters", newBench(addrs...), onCluster, callers, rounds, length)
}

// elsewhere measures the first workload on other servers.
func elsewhere(where string, b *bench, among []contender, callers []int, rounds int, length time.Duration) (*table, error) {
	w := workloads()[0]
	w.name, w.title = "uniform", "100,000 subjects alike, one window, "+where
	t := newTable(&w, callers)
	for range rounds {
		for _, c := range among {
			results, err := b.measure(c, &w, w.draws(), callers, length)
			if err != nil {
				return nil, err
			}
			t.add(c.name, results)
		}
	}
	t.print(os.Stdout)
	return t, nil
}
