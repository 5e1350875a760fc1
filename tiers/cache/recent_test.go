package cache

import (
	"fmt"
	"sync"
	"testing"
)

func TestRecentHoldsAsManyAsItMayAndSparesWhatIsRead(t *testing.T) {
	for _, size := range []int{1, 2, 100, 1000, 10_000} {
		r := newRecent[int](size)
		for i := range 3 * size {
			r.add(fmt.Sprint("id_", i), i)
			if v, ok := r.get(fmt.Sprint("id_", i)); !ok || v != i {
				t.Fatalf("size %d: %d was not kept: %d, %v", size, i, v, ok)
			}
		}
		held := 0
		for i := range r.shards {
			held += len(r.shards[i].entries)
		}
		if held > size*5/4 || held < size {
			t.Errorf("size %d: %d are held", size, held)
		}
	}
	r := newRecent[int](10)
	for i := range 10 {
		r.add(fmt.Sprint(i), i)
	}
	r.get("3")
	for i := 10; i < 19; i++ {
		r.add(fmt.Sprint(i), i)
	}
	if _, ok := r.peek("3"); !ok {
		t.Error("what was read was dropped before what was not")
	}
	if _, ok := r.peek("4"); ok {
		t.Error("nothing was dropped")
	}
}

// Of as many customers as there is room for none was held of one in fifty: shards fill
// unevenly.
func TestRecentHoldsAllThatThereIsRoomFor(t *testing.T) {
	for _, size := range []int{1, 100, 200, 1000, 10_000, 100_000} {
		r := newRecent[int](size)
		for i := range size {
			r.add(fmt.Sprint("acct_", i), i)
		}
		for i := range size {
			if _, ok := r.peek(fmt.Sprint("acct_", i)); !ok {
				t.Fatalf("size %d: the %d. is not held", size, i)
			}
		}
	}
}

func TestRecentForgetsWhatIsRemoved(t *testing.T) {
	r := newRecent[int](4)
	for round := range 100 {
		for i := range 4 {
			r.add(fmt.Sprint(i), round)
		}
		r.remove("2")
		if _, ok := r.get("2"); ok {
			t.Fatal("removed, and there")
		}
		r.add("2", -round)
		if v, ok := r.get("2"); !ok || v != -round {
			t.Fatalf("round %d: %d, %v", round, v, ok)
		}
		if n := len(r.shards[0].ring); n > 4 {
			t.Fatalf("the ring has %d places", n)
		}
	}
	r.purge()
	if _, ok := r.get("1"); ok {
		t.Error("purged, and there")
	}
}

func TestRecentIsSafeForConcurrentUse(t *testing.T) {
	r := newRecent[int](512)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 20_000 {
				n := (i*7 + g*13) % 1000
				id := fmt.Sprint(n)
				switch i % 5 {
				case 0:
					r.add(id, n)
				case 1:
					r.remove(id)
				default:
					if v, ok := r.get(id); ok && v != n {
						t.Errorf("%s holds %d", id, v)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkRecent(b *testing.B) {
	const subjects = 100_000
	r := newRecent[int](subjects)
	ids := make([]string, subjects)
	for i := range ids {
		ids[i] = fmt.Sprint("acct_", i)
		r.add(ids[i], i)
	}
	b.SetParallelism(8) // with two cores, 16 goroutines
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i += 7919 {
			r.get(ids[i%subjects])
		}
	})
}

// What was removed and added again has one place, and not the one that is taken first.
func TestRecentSparesWhatWasRemovedAndCameBack(t *testing.T) {
	r := newRecent[int](4)
	for i := range 4 {
		r.add(fmt.Sprint(i), i)
	}
	for range 3 {
		r.remove("1")
		r.add("1", 1)
		for i := 10; i < 20; i++ {
			r.get("1")
			r.add(fmt.Sprint(i), i)
			if _, ok := r.peek("1"); !ok {
				t.Fatal("what is read all the time was dropped")
			}
		}
	}
}

// Regression test: removals did not free their places. Eventually offer added nothing, and add
// evicted entries although places were free.
func TestPlacesOfWhatIsGoneAreFreeAgain(t *testing.T) {
	r := newRecent[int](10)
	for i := range 3 {
		r.add(fmt.Sprint("stays-", i), i)
	}
	for i := range 100 {
		id := fmt.Sprint("goes-", i)
		if i%2 == 0 {
			r.add(id, i)
		} else {
			r.offer(id, i)
		}
		if _, ok := r.peek(id); !ok {
			t.Fatalf("%s found no room", id)
		}
		r.remove(id)
	}
	for i := range 3 {
		if _, ok := r.peek(fmt.Sprint("stays-", i)); !ok {
			t.Errorf("stays-%d was put out", i)
		}
	}
	for i := range 7 {
		r.offer(fmt.Sprint("comes-", i), i)
	}
	r.offer("too much", 1)
	if _, ok := r.peek("comes-6"); !ok {
		t.Error("the last place is not used")
	}
	if _, ok := r.peek("too much"); ok {
		t.Error("an offer put something out")
	}
}
