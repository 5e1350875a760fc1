//go:build unix && !linux

package main

import "runtime"

// processor is what is known of it elsewhere.
func processor() string { return runtime.GOARCH }
