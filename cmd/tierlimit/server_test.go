package main

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestAListenerMayBeAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := open(t.Context(), "unix:"+path)
	if err != nil || baseURL(first.Addr()) != "unix:"+path {
		t.Fatal(first, err)
	}
	if _, err := open(t.Context(), "unix:"+path); err == nil {
		t.Error("taken from somebody who listens")
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:forcetypeassert // as of a process that was killed
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := open(t.Context(), "unix:"+path)
	if err != nil {
		t.Fatal("a socket that was left behind: ", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t.Context(), "unix:"+path); err == nil {
		t.Error("a file was replaced")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("%s, %v", text, err)
	}
}
