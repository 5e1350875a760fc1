package main

import (
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/tierlimit/tierlimit/internal/strictjson"
)

// A table aligns cells, which end in tabs, and rows, which end in newlines. It escapes
// characters that a terminal would interpret, hide or reorder. The API refuses such
// characters, but names may have entered the database another way.
type table struct{ cells *tabwriter.Writer }

func newTable(out io.Writer) table {
	return table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
}

// Write expects whole characters; each Fprintf is one call of Write.
func (t table) Write(text []byte) (int, error) {
	if _, err := io.WriteString(t.cells, visible(string(text))); err != nil {
		return 0, err
	}
	return len(text), nil
}

// Flush prints the aligned rows.
func (t table) Flush() error { return t.cells.Flush() }

// visible escapes unprintable characters in s, except tabs and newlines.
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
