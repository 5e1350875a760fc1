// Package demo gives a replica customers with a past, for pictures and for tests of the console.
package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Site is a running replica.
type Site struct {
	Public, Admin, Token string
	Database             string // its URL
}

// Fill creates tiers, customers, keys and tokens, and lets the customers use what they have.
func (s *Site) Fill(ctx context.Context) error {
	at := func(days float64) string {
		return time.Now().Add(time.Duration(days * float64(24*time.Hour))).UTC().Truncate(time.Hour).Format(time.RFC3339)
	}
	for _, one := range []struct{ method, path, body string }{
		{"POST", "/tiers", `{"key":"team","name":"Team","priority":15,"load":{"start":0.8,"full":0.95,"floor":0.3},"limits":{
			"per_minute":{"max":30,"window":"60s","adaptive":true},"search":{"max":600,"window":"1h","scope":"search","algorithm":"sliding"},
			"per_month":{"max":50000,"period":"month","anchor":"billing"},"exports_at_once":{"max":3,"scope":"exports","concurrent":true}}}`},
		{"POST", "/subjects:import", customers(at)},
		{"POST", "/subjects/acct_42/overrides", fmt.Sprintf(`{"limit":"per_minute","max":500,"expires_at":%q,"reason":"launch day"}`, at(2))},
		{"POST", "/subjects/acct_42/overrides", fmt.Sprintf(`{"limit":"per_month","max":250000,"starts_at":%q,"expires_at":%q,"reason":"agreed with sales for the holidays"}`, at(12), at(40))},
		{"PATCH", "/subjects/acct_1017", `{"status":"suspended"}`},
		{"POST", "/keys", `{"name":"production","subject":"acct_42"}`},
		{"POST", "/keys", fmt.Sprintf(`{"name":"staging","subject":"acct_42","expires_at":%q}`, at(90))},
		{"POST", "/keys", `{"name":"importer","subject":"acct_1003"}`},
		{"POST", "/tokens", `{"name":"ada","role":"owner"}`},
		{"POST", "/tokens", `{"name":"support","role":"operator"}`},
		{"POST", "/tokens", fmt.Sprintf(`{"name":"gateway","role":"service","expires_at":%q}`, at(180))},
		{"PATCH", "/load", fmt.Sprintf(`{"pins":{"team":{"multiplier":0.75,"expires_at":%q}}}`, at(1))},
		{"PATCH", "/tiers/team", `{"limits":{"per_minute":{"max":40}}}`},
		{"PATCH", "/subjects/acct_42", `{"tier":"pro"}`},
	} {
		if _, err := s.Ask(ctx, one.method, "/admin/v1"+one.path, one.body); err != nil {
			return err
		}
	}
	for _, use := range []struct {
		subject       string
		minute, month int // what it costs its limits
	}{
		{"acct_42", 96, 88_412},
		{"acct_1003", 61, 97_300},
		{"acct_1010", 5, 84_020},
		{"acct_1001", 2, 49_100},
		{"acct_1005", 12, 41_700},
		{"acct_1008", 4, 32_050},
		{"acct_1012", 7, 12_800},
		{"acct_1015", 3, 27_340},
	} {
		body := fmt.Sprintf(`{"subject":%q,"cost":1,"costs":{"per_minute":%d,"per_month":%d}}`, use.subject, use.minute, use.month)
		if _, err := s.ask(ctx, http.MethodPost, s.Public+"/v1/take", body, nil); err != nil {
			return err
		}
	}
	for _, life := range []time.Duration{10 * time.Minute, 25 * time.Minute} {
		if err := s.Take(ctx, "acct_42", 2, life); err != nil {
			return err
		}
	}
	return s.addHistory(ctx)
}

// customers returns the lines of an import.
func customers(at func(days float64) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"id":"acct_42","tier":"free","billing_anchor":"2026-03-14T00:00:00Z","next":{"tier":"enterprise","at":%q}}`+"\n", at(3))
	for i := range 60 {
		tier := []string{"free", "team", "free", "pro", "free", "team", "enterprise"}[i%7]
		extra := ""
		switch i % 20 {
		case 4:
			extra = fmt.Sprintf(`,"trial":{"tier":"pro","ends_at":%q}`, at(9))
		case 9:
			extra = fmt.Sprintf(`,"status":"past_due","grace_until":%q`, at(5))
		case 13:
			extra = fmt.Sprintf(`,"next":{"tier":"free","at":%q}`, at(16))
		}
		fmt.Fprintf(&b, `{"id":"acct_%d","tier":%q%s}`+"\n", 1000+i, tier, extra)
	}
	return b.String()
}

// addHistory writes what customers used of windows that have ended, and of those that run.
func (s *Site) addHistory(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.Database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	add := func(subject, limit string, ends time.Time, used, most int) error {
		_, err := conn.Exec(ctx, `INSERT INTO tierlimit.usage_history (subject, limit_name, ends_at, used, max) VALUES ($1, $2, $3, $4, $5)`,
			subject, limit, ends.UnixMilli(), used, most)
		return err
	}
	month := time.Date(time.Now().Year(), time.Now().Month(), 1, 0, 0, 0, 0, time.UTC)
	for i := range 11 {
		used := int(math.Round(100_000 * (.96 - .055*float64(i) + .07*math.Sin(float64(i)*1.7))))
		if err := add("acct_42", "per_month", month.AddDate(0, -i, 0), min(used, 100_000), 100_000); err != nil {
			return err
		}
	}
	return nil
}

// Drive lets customers ask at a steady pace until ctx ends. Some ask for more than they may.
func (s *Site) Drive(ctx context.Context) {
	tick := time.NewTicker(40 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		wave := 1.2 + math.Sin(float64(i)/500) + .4*math.Sin(float64(i)/90)
		for j := range 1 + int(wave*2) {
			_ = s.Take(ctx, fmt.Sprintf("acct_%d", 1006+7*((i+j)%8)), 1, 0) // on enterprise; ctx may have ended
		}
		if i%4 == 0 {
			greedy := []string{"acct_1000", "acct_1002", "ip:203.0.113.7", "acct_1017", "acct_1000", "acct_1005", "acct_42", "acct_1000"}
			_ = s.Take(ctx, greedy[i/4%len(greedy)], 1, 0)
		}
	}
}

// Take charges a subject, with a hold if hold is not 0.
func (s *Site) Take(ctx context.Context, subject string, cost int, hold time.Duration) error {
	body := fmt.Sprintf(`{"subject":%q,"cost":%d,"hold_ms":%d}`, subject, cost, hold.Milliseconds())
	_, err := s.ask(ctx, http.MethodPost, s.Public+"/v1/take", body, nil)
	return err
}

// Ask sends a request to the admin listener, and wants it done.
func (s *Site) Ask(ctx context.Context, method, path, body string) ([]byte, error) {
	header := make(http.Header)
	if method != http.MethodPost {
		header.Set("If-Match", "*")
	}
	if strings.HasSuffix(path, ":import") {
		header.Set("Content-Type", "application/x-ndjson")
	}
	return s.ask(ctx, method, s.Admin+path, body, header)
}

// NewToken makes a token with a role.
func (s *Site) NewToken(ctx context.Context, role string) (string, error) {
	text, err := s.Ask(ctx, http.MethodPost, "/admin/v1/tokens", fmt.Sprintf(`{"name":"a %s","role":%q}`, role, role))
	var made struct{ Secret string }
	if err == nil {
		err = json.Unmarshal(text, &made)
	}
	return made.Secret, err
}

func (s *Site) ask(ctx context.Context, method, url, body string, header http.Header) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if header != nil {
		r.Header = header
	}
	r.Header.Set("Authorization", "Bearer "+s.Token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode > 299 {
		err = fmt.Errorf("%s %s: %d: %s", method, url, resp.StatusCode, text)
	}
	return text, err
}
