package redisstore

import (
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
)

// Two subjects never share a key, and a key has one hash tag, which is all of the
// subject: a Cluster cannot be made to put one elsewhere.
func FuzzKey(f *testing.F) {
	f.Fuzz(func(t *testing.T, a, b string) {
		ka, kb := Key(a), Key(b)
		if (ka == kb) != (a == b) {
			t.Errorf("%q and %q have the keys %q and %q", a, b, ka, kb)
		}
		tag, found := strings.CutPrefix(ka, "tl:{")
		tag, closed := strings.CutSuffix(tag, "}")
		if !found || !closed || strings.ContainsAny(tag, "{} \r\n\x00") {
			t.Errorf("%q has the key %q", a, ka)
		}
		if decoded, err := decode(tag); err != nil || decoded != a {
			t.Errorf("%q is read back from %q as %q, %v", a, ka, decoded, err)
		}
	})
}

func decode(tag string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(tag); i++ {
		if tag[i] != '%' {
			b.WriteByte(tag[i])
			continue
		}
		const hex = "0123456789ABCDEF"
		b.WriteByte(byte(strings.IndexByte(hex, tag[i+1])<<4 | strings.IndexByte(hex, tag[i+2])))
		i += 2
	}
	return b.String(), nil
}

// A reply that is not our script's is an error, and no panic; what is read answers every
// caller.
func FuzzReply(f *testing.F) {
	f.Fuzz(func(t *testing.T, reply string, sliding, together bool) {
		e := entryOf(t, sliding)
		if !together {
			e.runs = e.runs[:1]
		}
		e.readAlone(reply)
		if e.err != nil {
			return
		}
		b := &batch{entries: []entry{*e}}
		for run := range e.runs {
			t1 := ticket{batch: b, run: run}
			o, err := t1.outcome()
			if err != nil || len(o.Counts) != e.ceilings.Len() {
				t.Errorf("%q is read as %+v, %v", reply, o, err)
			}
		}
	})
}

func entryOf(t *testing.T, sliding bool) *entry {
	t.Helper()
	ceilings, err := tierlimit.NewCeilings(
		tierlimit.Ceiling{Name: "per_day", Max: 7, Window: tierlimit.Window{Period: tierlimit.Day}},
		tierlimit.Ceiling{Name: "per_minute", Max: tierlimit.Unlimited, Window: tierlimit.Window{Length: time.Minute}, Sliding: sliding},
	)
	if err != nil {
		t.Fatal(err)
	}
	return &entry{subject: "acct_42", ceilings: ceilings, runs: []run{{cost: 1, came: 2}, {cost: 3, came: 1}}}
}

// A frame says what it was made of, whatever numbers are in it.
func FuzzFrame(f *testing.F) {
	f.Fuzz(func(t *testing.T, name string, most, length, cost, charges int64, subjects uint16) {
		ceilings, err := tierlimit.NewCeilings(tierlimit.Ceiling{Name: name, Max: most, Window: tierlimit.Window{Length: time.Duration(length) * time.Millisecond}})
		if err != nil || cost < 0 || cost > tierlimit.MaxCount || charges < 1 || charges > 1e6 {
			return // what no store sees
		}
		e := &entry{subject: "a", ceilings: ceilings, runs: []run{{cost: cost, came: charges}}}
		frame := string(e.appendGroup(nil, int(subjects)))
		number := func(size int) (n int64) {
			n, frame = readUint(frame, size), frame[size:]
			return n
		}
		got := []int64{number(4), number(2), number(1)}
		head := frame[2 : 2+readUint(frame, 2)]
		frame = frame[2+len(head):]
		got = append(got, number(7), number(1), number(6), number(7), number(7))
		wantMax := most
		if most == tierlimit.Unlimited {
			wantMax = 1<<56 - 1
		}
		want := []int64{int64(subjects), 1, 1, wantMax, 0, length, cost, charges}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("number %d is %d, want %d", i, got[i], want[i])
			}
		}
		if frame != "" || head != name+":" || head != e.head() {
			t.Errorf("the head is %q, and %d bytes are left", head, len(frame))
		}
	})
}

// readHold returns an error, and does not panic, for a malformed reply. A valid outcome has a
// count for every limit.
func FuzzHoldReply(f *testing.F) {
	f.Add("", true)
	f.Add(strings.Repeat("\x00", 6+1+6+2*(7+6+7+7)), false)
	f.Fuzz(func(t *testing.T, reply string, held bool) {
		c := &tierlimit.Charge{Subject: "acct_42", Cost: 3, Ceilings: entryOf(t, true).ceilings, Held: held}
		if held {
			c.Hold = &tierlimit.Hold{For: time.Minute}
		}
		o, err := readHold(c, reply)
		if err != nil {
			return
		}
		if len(o.Counts) != 2 || o.FirstExpiry < 0 || o.Allowed && o.TooManyHolds {
			t.Errorf("%q is read as %+v", reply, o)
		}
	})
}

// readSettlement returns an error, and does not panic, for a malformed reply.
func FuzzSettlement(f *testing.F) {
	f.Fuzz(func(t *testing.T, limit string, kind, number int64, size uint8, texts bool) {
		var reply []any
		for i := range int(size) {
			if texts && i%7 == 2 {
				reply = append(reply, limit)
			} else {
				reply = append(reply, number+kind*int64(i))
			}
		}
		settled, err := readSettlement(reply)
		if want := size >= 2 && (size-2)%7 == 0 && (texts || size == 2); (err == nil) != want {
			t.Errorf("%v is read as %+v, %v", reply, settled, err)
		}
	})
}

// A frame of appendHold decodes to the charge that was encoded.
func FuzzHoldFrame(f *testing.F) {
	f.Fuzz(func(t *testing.T, cost, own, ms int64, most uint16) {
		c := &tierlimit.Charge{
			Subject: "acct_42", Cost: cost, Costs: []int64{own, -1}, Ceilings: entryOf(t, false).ceilings,
			Hold: &tierlimit.Hold{ID: tierlimit.HoldID{1, 2, 3}, For: time.Duration(ms) * time.Millisecond},
		}
		if c.Validate() != nil || cost == 0 {
			return
		}
		frame := string(appendHold(nil, c, int(most)))
		number := func(size int) (n int64) {
			n, frame = readUint(frame, size), frame[size:]
			return n
		}
		got := []int64{number(1), number(4), number(2), number(8), number(8), number(1)}
		head := frame[2 : 2+readUint(frame, 2)]
		frame = frame[2+len(head)+2*(7+1+6):]
		got = append(got, number(1), number(7), number(1), number(7))
		isOwn, first := int64(1), own
		if own == -1 {
			isOwn, first = 0, cost
		}
		want := []int64{1, ms, int64(most), 0x0102030000000000, 0, 2, isOwn, first, 0, cost}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("number %d is %d, want %d", i, got[i], want[i])
			}
		}
		if frame != "" || head != "per_day,per_minute:" {
			t.Errorf("the head is %q, and %d bytes are left", head, len(frame))
		}
	})
}
