package main

import (
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/tierlimit/tierlimit/internal/strictjson"
)

// A table aligns what is written to it, cells ended by tabs and rows by newlines. It
// shows what a terminal would obey, hide or turn round as an escape: a name may have come
// into the database by another way than the API, which refuses such characters.
type table struct{ cells *tabwriter.Writer }

func newTable(out io.Writer) table {
	return table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
}

// Write takes whole characters: a Fprintf makes one call of it.
func (t table) Write(text []byte) (int, error) {
	if _, err := io.WriteString(t.cells, visible(string(text))); err != nil {
		return 0, err
	}
	return len(text), nil
}

// Flush prints what was written.
func (t table) Flush() error { return t.cells.Flush() }

// visible escapes what is not printable in s, but for tabs and newlines.
func visible(s string) string {
	if strictjson.Printable(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if c := string(r); r == '\t' || r == '\n' || strictjson.Printable(c) {
			b.WriteString(c)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}
