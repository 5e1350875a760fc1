//go:build unix && !linux

package main

import (
	"runtime"
	"time"
)

// processor is what is known of it elsewhere.
func processor() string { return runtime.GOARCH }

func processCPU() time.Duration { return 0 }
