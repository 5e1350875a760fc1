package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
)

// lastLine decodes the last line of an NDJSON response.
func (a answer) lastLine() (tally struct {
	Read, Created, Replaced, Unchanged, Line int
	Done                                     bool
	Subject, Error                           string
},
) {
	a.Helper()
	lines := strings.Split(strings.TrimSpace(string(a.want(200).body)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &tally); err != nil {
		a.Fatalf("%v in %s", err, a.body)
	}
	return tally
}

func TestSubjectsAreImportedExportedAndMoved(t *testing.T) {
	s := newSite(t, 0)
	const root = "/admin/v1/subjects"
	var in strings.Builder
	in.WriteString("\ufeff")
	for i := range 1200 {
		fmt.Fprintf(&in, `{"id":"acct_%04d","tier":"free","status":"active"}`+"\r\n", i)
	}
	in.WriteString(`{"id":"vip","tier":"pro","overrides":{"per_minute":{"max":null,"starts_at":"2026-01-01T00:00:00Z","expires_at":"2099-01-01T00:00:00Z","reason":"launch"}}}` + "\n\n")

	tried := s.ask(s.admin, "POST", root+":import?dry_run=true", in.String()).lastLine()
	if tried.Created != 1201 || !tried.Done {
		t.Fatalf("tried: %+v", tried)
	}
	s.ask(s.admin, "GET", root+"/vip", "").want(404)
	if made := s.ask(s.admin, "POST", root+":import", in.String()).lastLine(); made != tried {
		t.Errorf("made %+v, and the dry run said %+v", made, tried)
	}
	s.ask(s.admin, "GET", root+"/vip/overrides/per_minute", "").want(200, `"max":null`)

	// An import that changes nothing draws no version and writes no event.
	out := s.ask(s.admin, "GET", root+":export", "").want(200)
	if n := strings.Count(string(out.body), "\n"); n != 1201 {
		t.Errorf("%d lines are exported", n)
	}
	if again := s.ask(s.admin, "POST", root+":import", string(out.body)).lastLine(); again.Unchanged != 1201 || again.Created+again.Replaced != 0 {
		t.Errorf("imported again: %+v", again)
	}
	if out := s.ask(s.admin, "GET", root+":export?tier=pro", "").want(200, `"id":"vip"`, `"overrides":{"per_minute"`); strings.Count(string(out.body), "\n") != 1 {
		t.Errorf("of one tier: %s", out.body)
	}

	moved := s.ask(s.admin, "POST", root+":move?to=pro&tier=free&prefix=acct_00", "").lastLine()
	if moved.Replaced != 100 || !moved.Done {
		t.Errorf("moved %+v", moved)
	}
	s.ask(s.admin, "GET", root+"/acct_0042", "").want(200, `"tier":"pro"`)
	s.ask(s.admin, "GET", root+"/acct_0142", "").want(200, `"tier":"free"`)
	s.ask(s.admin, "POST", root+":move?to=enterprise&prefix=acct_0142&at=2099-01-01T00:00:00Z", "").lastLine()
	s.ask(s.admin, "GET", root+"/acct_0142", "").want(200, `"tier":"free"`, `"next":{"tier":"enterprise","at":"2099-01-01T00:00:00Z"}`)
	s.ask(s.admin, "POST", root+":move?to=nowhere&tier=free", "").want(404)
	s.ask(s.admin, "POST", root+":move?to=pro&tier=&status=active", "").want(400, "tier") // a variable that was not set
	s.ask(s.admin, "POST", root+":move?tier=free", "").want(400, "to")
	s.ask(s.admin, "POST", root+":move?to=pro", "").want(400, "everybody")
	s.ask(s.admin, "POST", root+":move?to=pro&tier=free&everybody=true", "").want(400, "everybody")
	s.ask(s.admin, "POST", root+":move?to=pro", `{"tier":"free"}`).want(400, "body", "query")
	if all := s.ask(s.admin, "POST", root+":move?to=pro&everybody=true&dry_run=true", "").lastLine(); all.Read != 1201 {
		t.Errorf("everybody: %+v", all)
	}
	s.ask(s.admin, "GET", "/admin/v1/audit?object=acct_0042", "").want(200, `"action":"subject.replace"`)
}

func TestARefusedLineIsNamed(t *testing.T) {
	const root = "/admin/v1/subjects"
	for name, c := range map[string]struct{ line, want string }{
		"a field":    {`{"id":"b","tier":5}`, "tier"},
		"no tier":    {`{"id":"b","tier":"nowhere"}`, "nowhere"},
		"no JSON":    {`{"id":`, "JSON"},
		"twice":      {`{"id":"b","id":"c","tier":"free"}`, "given once"},
		"no reason":  {`{"id":"b","tier":"free","overrides":{"x":{"max":1,"expires_at":"2099-01-01T00:00:00Z"}}}`, "reason"},
		"too long":   {`{"id":"` + strings.Repeat("x", 257<<10) + `"}`, "256 KiB"},
		"no subject": {`{"tier":"free"}`, "id"},
		"again":      {`{"id":"a","tier":"pro"}`, "on one line alone"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, 0)
			body := `{"id":"a","tier":"free"}` + "\n" + c.line + "\n" + `{"id":"d","tier":"free"}` + "\n"
			for _, atomic := range []bool{true, false} {
				got := s.ask(s.admin, "POST", fmt.Sprintf("%s:import?atomic=%t", root, atomic), body).lastLine()
				if got.Done || got.Line != 2 || !strings.Contains(got.Error, c.want) {
					t.Errorf("atomic %t: %+v, want %q", atomic, got, c.want)
				}
				if atomic {
					s.ask(s.admin, "GET", root+"/a", "").want(404)
				} else if got.Created != 1 {
					t.Errorf("before the line: %+v", got)
				}
				if atomic && got.Read+got.Created+got.Replaced+got.Unchanged != 0 {
					t.Errorf("nothing was made, and it says %+v", got)
				}
			}
			s.ask(s.admin, "GET", root+"/a", "").want(200) // a precedes the invalid line
			s.ask(s.admin, "GET", root+"/d", "").want(404)
		})
	}
}

// Regression test: a file of more than 560 lines was not read to its end. An HTTP/1 server
// discards the rest of the request body when the response begins.
func TestAFileIsReadToItsEndWhileTheAnswerIsWritten(t *testing.T) {
	server := httptest.NewServer(newSite(t, 0).admin)
	defer server.Close()
	for _, n := range []int{499, 500, 501, 2000, 12_000} {
		for _, chunked := range []bool{true, false} {
			var in strings.Builder
			for i := range n {
				fmt.Fprintf(&in, `{"id":"acct_%d_%t_%05d","tier":"free"}`+"\n", n, chunked, i)
			}
			var body io.Reader = strings.NewReader(in.String())
			if chunked {
				body = io.MultiReader(body)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/admin/v1/subjects:import", body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+adminToken)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if got := (answer{t, resp.StatusCode, resp.Header, text}).lastLine(); got.Created != n || !got.Done {
				t.Errorf("%d lines, chunked %t: %+v", n, chunked, got)
			}
		}
	}
}

// A line that is cut off is not imported.
func TestALineThatWasCutOffIsNotRead(t *testing.T) {
	s := newSite(t, 0)
	r := httptest.NewRequest(http.MethodPost, "/admin/v1/subjects:import", io.MultiReader(
		strings.NewReader(`{"id":"a","tier":"free"}`+"\n"+`{"id":"b","tier":"free"}`), iotest.ErrReader(io.ErrUnexpectedEOF)))
	r.Header.Set("Authorization", "Bearer "+adminToken)
	w := httptest.NewRecorder()
	s.admin.ServeHTTP(w, r)
	got := answer{t, w.Code, w.Header(), w.Body.Bytes()}.lastLine()
	if got.Done || got.Line != 2 || got.Created != 1 {
		t.Errorf("%+v", got)
	}
	s.ask(s.admin, "GET", "/admin/v1/subjects/b", "").want(404)
}

// Regression test: the import of an export failed if a subject had an override of a limit that
// its tier no longer has.
func TestWhatWasExportedIsImported(t *testing.T) {
	s, other := newSite(t, 0), newSite(t, 0)
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"a","tier":"pro"}`).want(201)
	s.ask(s.admin, "POST", "/admin/v1/subjects/a/overrides", `{"limit":"per_month","max":5,"expires_at":"2099-01-01T00:00:00Z","reason":"x"}`).want(201)
	s.ask(s.admin, "PATCH", "/admin/v1/subjects/a", `{"tier":"free"}`, "If-Match", "*").want(200)
	out := string(s.ask(s.admin, "GET", "/admin/v1/subjects:export", "").want(200).body)
	if again := s.ask(s.admin, "POST", "/admin/v1/subjects:import", out).lastLine(); again.Unchanged != 1 || !again.Done {
		t.Errorf("where it came from: %+v", again)
	}
	if moved := other.ask(other.admin, "POST", "/admin/v1/subjects:import", out).lastLine(); moved.Created != 1 || !moved.Done {
		t.Errorf("elsewhere: %+v", moved)
	}
	if again := string(other.ask(other.admin, "GET", "/admin/v1/subjects:export", "").want(200).body); !strings.Contains(again, `"per_month":{"limit":"per_month","max":5`) {
		t.Errorf("exported again: %s", again)
	}
}
