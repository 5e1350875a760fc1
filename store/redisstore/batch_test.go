package redisstore

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A trip is a batch that a test fills, sends and answers by itself.
type trip struct {
	*testing.T
	b *batch
}

func newTrip(t *testing.T) *trip {
	t.Helper()
	b := &batch{}
	b.begin()
	return &trip{t, b}
}

func ceilings(t *testing.T, most ...int64) *tierlimit.Ceilings {
	t.Helper()
	names := []string{"per_day", "per_hour", "per_minute"}
	var list []tierlimit.Ceiling
	for i, n := range most {
		list = append(list, tierlimit.Ceiling{Name: names[i], Max: n, Window: tierlimit.Window{Length: time.Hour}})
	}
	c, err := tierlimit.NewCeilings(list...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (tr *trip) add(subject string, cost int64, c *tierlimit.Ceilings) *ticket {
	tr.Helper()
	t := tr.b.add(&tierlimit.Charge{Subject: subject, Cost: cost, Ceilings: c}, hashOf(subject), time.Now().Add(time.Hour))
	if t.batch == nil {
		tr.Fatal("there is no room")
	}
	return &t
}

// send returns the groups of the frame as scripts/take.lua reads them.
func (tr *trip) send() (again bool, groups []sentGroup) {
	tr.Helper()
	if !tr.b.frame.prepare(tr.b) {
		tr.Fatal("nothing leaves")
	}
	words := tr.b.frame.command(tr.b.again)
	text := string(words[len(words)-1].([]byte))
	again, text = text[0] == 1, text[1:]
	number := func(size int) int64 {
		n := readUint(text, size)
		text = text[size:]
		return n
	}
	for text != "" {
		g := sentGroup{keys: number(4)}
		runs, n := number(2), number(1)
		size := number(2)
		g.head, text = text[:size], text[size:]
		for range n {
			g.max = append(g.max, number(7))
			number(1 + 6)
		}
		for range runs {
			g.runs = append(g.runs, [2]int64{number(7), number(7)})
		}
		groups = append(groups, g)
	}
	if keys := len(words) - 4; keys != words[2].(int) {
		tr.Fatalf("%d keys, and it says %v", keys, words[2])
	}
	return again, groups
}

// A sentGroup is a group of a frame.
type sentGroup struct {
	keys int64
	head string
	max  []int64
	runs [][2]int64 // cost, count
}

func TestChargesOfOneSubjectThatDifferAreRunsOfTheirOwn(t *testing.T) {
	tr := newTrip(t)
	c := ceilings(t, 100)
	for _, cost := range []int64{1, 100, 100, 1} {
		tr.add("acct_42", cost, c)
	}
	again, groups := tr.send()
	if again || len(groups) != 1 || len(groups[0].runs) != 3 ||
		groups[0].runs[0] != [2]int64{1, 1} || groups[0].runs[1] != [2]int64{100, 2} || groups[0].runs[2] != [2]int64{1, 1} {
		t.Errorf("sent %+v", groups)
	}
}

func TestSubjectsThatAreChargedDifferentlyAreGroupsOfTheirOwn(t *testing.T) {
	tr := newTrip(t)
	c := ceilings(t, 100)
	tr.add("acct_1", 1, c)
	tr.add("acct_2", 10, c)
	tr.add("acct_3", 1, c)
	tr.add("acct_4", 1, ceilings(t, 50))
	_, groups := tr.send()
	if len(groups) != 3 || groups[0].keys != 2 || groups[1].keys != 1 || groups[1].runs[0] != [2]int64{10, 1} || groups[2].max[0] != 50 {
		t.Errorf("sent %+v", groups)
	}
}

// A subject that was upgraded a moment ago is in a call with both of its plans: the script
// must read its key for each.
func TestASubjectWithTwoPlansIsTwoEntriesAndTheScriptIsTold(t *testing.T) {
	tr := newTrip(t)
	before := tr.add("acct_42", 1, ceilings(t, 5))
	after := tr.add("acct_42", 1, ceilings(t, 100))
	same := tr.add("acct_42", 1, ceilings(t, 5)) // equal, and made anew
	if before.entry == after.entry || same.entry != before.entry {
		t.Errorf("entries %d, %d and %d", before.entry, after.entry, same.entry)
	}
	again, groups := tr.send()
	if !again || len(groups) != 2 || groups[0].max[0] != 5 || groups[1].max[0] != 100 {
		t.Errorf("again %v, sent %+v", again, groups)
	}
}

// value is an answer with the windows as they were found, all ending in so many ms.
func value(e *entry, now int64, used []int64, left []int64) string {
	b := appendUint(nil, now, instant)
	b = append(b, e.head()...)
	for _, n := range used {
		b = appendUint(b, n, count)
	}
	for _, n := range left {
		b = appendUint(b, now+n, instant)
	}
	return string(b)
}

// Of a run as many charges are let in as fit, whoever gave up before they left.
func TestAsManyOfARunAreLetInAsFit(t *testing.T) {
	const now = int64(1_700_000_000_000)
	for name, c := range map[string]struct {
		used, most, cost int64
		came             int
		withdrawn        []int
		allowed          []int // of those that came, in order
	}{
		"all":                              {0, 10, 1, 3, nil, []int{0, 1, 2}},
		"three of five":                    {0, 3, 1, 5, nil, []int{0, 1, 2}},
		"what was left":                    {8, 10, 1, 5, nil, []int{0, 1}},
		"none":                             {10, 10, 1, 3, nil, nil},
		"none, as more was used than max":  {12, 10, 1, 3, nil, nil},
		"of a cost that fits twice":        {3, 10, 3, 4, nil, []int{0, 1}},
		"those behind one that gave up":    {8, 10, 1, 3, []int{0}, []int{1, 2}},
		"those around two that gave up":    {7, 10, 1, 6, []int{1, 3}, []int{0, 2, 4}},
		"the whole run that exactly fits":  {4, 10, 2, 3, nil, []int{0, 1, 2}},
		"one below what would exactly fit": {5, 10, 2, 3, nil, []int{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrip(t)
			limits := ceilings(t, c.most)
			var tickets []*ticket
			for range c.came {
				tickets = append(tickets, tr.add("acct_42", c.cost, limits))
			}
			for _, i := range c.withdrawn {
				tickets[i].withdraw()
			}
			e := &tr.b.entries[0]
			e.readAlone(value(e, now, []int64{c.used}, []int64{60_000}))
			allowed := make(map[int]bool)
			for _, i := range c.allowed {
				allowed[i] = true
			}
			charged := c.used
			for i, ticket := range tickets {
				if slices.Contains(c.withdrawn, i) {
					continue
				}
				o, err := ticket.outcome()
				if o.Allowed {
					charged += c.cost
				}
				if err != nil || o.Allowed != allowed[i] || o.Counts[0].Used != charged || o.At != now {
					t.Errorf("charge %d: %+v, %v; want allowed %v at %d used", i, o, err, allowed[i], charged)
				}
			}
		})
	}
}

func TestEachLimitIsToldItsOwnCountAndEnd(t *testing.T) {
	const now = int64(1_700_000_000_000)
	tr := newTrip(t)
	ticket := tr.add("acct_42", 2, ceilings(t, 100, 50, 10))
	e := &tr.b.entries[0]
	e.readAlone(value(e, now, []int64{30, 20, 5}, []int64{900_000, 600_000, 60_000}))
	o, err := ticket.outcome()
	if err != nil || !o.Allowed {
		t.Fatalf("%+v, %v", o, err)
	}
	for i, want := range []struct{ used, reset int64 }{{32, 900_000}, {22, 600_000}, {7, 60_000}} {
		if c := o.Counts[i]; c.Used != want.used || c.Reset != want.reset || c.End != now+want.reset || c.Began {
			t.Errorf("limit %d: %+v, want %+v", i, c, want)
		}
	}
}

// Behind a run that nobody waits for any more each run reads the number that is its own.
func TestRunsReadTheirOwnNumbersBehindOneThatGaveUp(t *testing.T) {
	const now = int64(1_700_000_000_000)
	tr := newTrip(t)
	limits := ceilings(t, 100)
	first, second, third := tr.add("acct_42", 1, limits), tr.add("acct_42", 3, limits), tr.add("acct_42", 5, limits)
	first.withdraw()
	e := &tr.b.entries[0]
	reply := string(appendUint(nil, now, instant)) + "\x01"
	for _, n := range []int64{1, 0} { // admitted: the cost of 3, and not the cost of 5
		reply += string(appendUint(nil, n, count))
	}
	reply += string(appendUint(appendUint(appendUint(nil, 96, count), now+60_000, instant), 0, count))
	e.readAlone(reply)
	for i, c := range []struct {
		ticket  *ticket
		allowed bool
		used    int64
	}{{second, true, 99}, {third, false, 99}} {
		if o, err := c.ticket.outcome(); err != nil || o.Allowed != c.allowed || o.Counts[0].Used != c.used {
			t.Errorf("run %d: %+v, %v", i+1, o, err)
		}
	}
	if _, err := second.outcome(); err != nil {
		t.Error(err)
	}
}

func TestAnErrorInTheKeysPlaceIsThatOfTheCharge(t *testing.T) {
	tr := newTrip(t)
	ticket := tr.add("acct_42", 1, ceilings(t, 100))
	text := "WRONGTYPE it does not hold counters"
	reply := append(appendUint(nil, 1_700_000_000_000, instant), 2)
	reply = append(binary.BigEndian.AppendUint32(reply, uint32(len(text))), text...)
	tr.b.entries[0].readAlone(string(reply))
	if _, err := ticket.outcome(); err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v", err)
	}
}

// A reply that is not our script's to a read is no division by nothing.
func TestAReadIsAnsweredWhateverComesBack(t *testing.T) {
	tr := newTrip(t)
	ticket := tr.add("acct_42", 0, ceilings(t, 10))
	tr.b.entries[0].readAlone(value(&tr.b.entries[0], 1_700_000_000_000, []int64{12}, []int64{60_000}))
	if o, err := ticket.outcome(); err != nil || o.Counts[0].Used != 12 {
		t.Errorf("%+v, %v", o, err)
	}
}
