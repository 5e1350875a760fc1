package lograte_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit/internal/lograte"
)

func TestWhatHappensAllTheTimeIsSaidOnceAMinuteAndAllOfIt(t *testing.T) {
	synctest.Test(t, func(*testing.T) {
		var l lograte.Line
		var said []int64
		for range 150 { // seconds
			l.Add(2, func(total int64) { said = append(said, total) })
			time.Sleep(time.Second)
		}
		if want := []int64{2, 120, 120}; !slices.Equal(said, want) {
			t.Errorf("%v, want %v", said, want)
		}
	})
}
