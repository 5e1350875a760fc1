package main

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
)

// The console of dev is there at once, and takes forms of its own pages alone.
func TestDevServesTheConsole(t *testing.T) {
	_, admin, token, _ := shell{T: t}.dev()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar}
	send := func(method, path, kind, body string, header ...string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, admin+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
			if header[i] == "Host" {
				r.Host = header[i+1]
			}
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	const form = "application/x-www-form-urlencoded"
	if code, text := send("GET", "/console", "", ""); code != http.StatusOK || !strings.Contains(text, "Sign in") {
		t.Errorf("%d: %s", code, text)
	}
	signIn := url.Values{"token": {token}}.Encode()
	if code, text := send("POST", "/console/sign-in", form, signIn); code != http.StatusOK || !strings.Contains(text, "<h1>Overview</h1>") {
		t.Fatalf("%d: %s", code, text)
	}
	upload := "--b\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\n{\"id\":\"acct_42\",\"tier\":\"pro\"}\r\n--b\r\nContent-Disposition: form-data; name=\"step\"\r\n\r\napply\r\n--b--\r\n"
	const multipart = "multipart/form-data; boundary=b"
	if code, text := send("POST", "/console/import", multipart, upload, "Sec-Fetch-Site", "cross-site"); code != http.StatusForbidden {
		t.Errorf("a form of another site: %d: %s", code, text)
	}
	if code, text := send("POST", "/console/import", multipart, upload); code != http.StatusOK || !strings.Contains(text, "1 created") {
		t.Errorf("%d: %s", code, text)
	}
	if code, text := send("GET", "/console/tiers", "", "", "Host", "attacker.example.org"); code != http.StatusMisdirectedRequest {
		t.Errorf("under another name: %d: %s", code, text)
	}
}
