package redisstore

import (
	"bytes"
	"encoding/binary"
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

// A reply that is not our script's is an error, and no panic and no decision.
func FuzzReply(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte, sliding, leased bool) {
		var reply []int64
		for len(data) >= 8 {
			reply, data = append(reply, int64(binary.BigEndian.Uint64(data))), data[8:]
		}
		e := entryOf(sliding)
		e.leased = leased
		e.readAlone(reply)
		if e.err == nil && len(e.counts) != e.width()*len(e.ceilings) {
			t.Errorf("%v is read as %+v", reply, e)
		}
	})
}

func entryOf(sliding bool) *entry {
	return &entry{
		subject: "acct_42",
		ceilings: []tierlimit.Ceiling{
			{Name: "per_day", Max: 7, Window: tierlimit.Window{Period: tierlimit.Day}},
			{Name: "per_minute", Max: tierlimit.Unlimited, Window: tierlimit.Window{Length: time.Minute}, Sliding: sliding},
		},
		runs: []run{{cost: 1, came: 2}, {cost: 3, came: 1}},
	}
}

// A frame says what it was made of, whatever numbers are in it.
func FuzzFrame(f *testing.F) {
	f.Fuzz(func(t *testing.T, name string, most, length, cost, count int64, subjects uint16) {
		c := tierlimit.Charge{Subject: "a", Cost: cost, Ceilings: []tierlimit.Ceiling{
			{Name: name, Max: most, Window: tierlimit.Window{Length: time.Duration(length) * time.Millisecond}},
		}}
		if c.Validate() != nil || count < 1 || count > 1e6 {
			return // what no store sees
		}
		e := &entry{subject: "a", ceilings: c.Ceilings, runs: []run{{cost: cost, came: count}}}
		frame := e.appendTo(nil, int(subjects))
		number := func(size int) (n int64) {
			for _, b := range frame[:size] {
				n = n<<8 | int64(b)
			}
			frame = frame[size:]
			return n
		}
		got := []int64{number(4), number(1), number(2)}
		head := frame[2 : 2+binary.BigEndian.Uint16(frame)]
		frame = frame[2+len(head):]
		got = append(got, number(7), number(1), number(6), number(7), number(7), number(1))
		wantMax := most
		if most == tierlimit.Unlimited {
			wantMax = 1<<56 - 1
		}
		want := []int64{int64(subjects), 1, 1, wantMax, 0, length, cost, count, 0}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("number %d is %d, want %d", i, got[i], want[i])
			}
		}
		if len(frame) > 0 || !bytes.Equal(head, []byte(name+":")) {
			t.Errorf("the head is %q, and %d bytes are left", head, len(frame))
		}
	})
}
