// Bench measures decisions beside what a Go service would import instead, on one
// Redis, in one run.
//
// Every contender takes every workload in turn, round after round, so that what
// the machine does meanwhile happens to all of them; what is reported are
// medians, and ratios of one round paired. `make bench` runs it; -h lists what
// can be chosen.
package main
