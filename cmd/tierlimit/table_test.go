package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A name that bypassed the API's checks neither moves the cursor of a terminal nor reverses
// the text of a line.
func TestWhatATerminalWouldObeyIsShownEscaped(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"data":[{"id":"a\u001b[2Jb\u202ec\u200b","tier":"größe","status":"active"}],"has_more":false}`)
	}))
	defer server.Close()
	sh := shell{T: t, env: map[string]string{"TIERLIMIT_ADMIN_URL": server.URL, "TIERLIMIT_TOKEN": strings.Repeat("t", 32)}}
	out := sh.does("subjects", "list")
	if !strings.Contains(out, `a\x1b[2Jb\u202ec\u200b  größe  active`) {
		t.Errorf("shown: %q", out)
	}
}
