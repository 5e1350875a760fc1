package redisstore

import "testing"

func TestVersions(t *testing.T) {
	for version, want := range map[string]bool{
		"6.2.0": false, "6.0.16": true, "5.0.14": true, "7.0.15": false, "10.1": false, "8.8.0-rc1": false, "": false, "unstable": false,
	} {
		if tooOld(version) != want {
			t.Errorf("%q: too old %v, want %v", version, !want, want)
		}
	}
}
