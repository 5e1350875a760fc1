package access_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit/access"
)

func TestASecretNamesItsCredentialAndNoOther(t *testing.T) {
	one := access.Credential{Kind: access.Key, Subject: "acct_42", Name: "k"}.WithSecret()
	other := access.Credential{Kind: access.Key, Subject: "acct_42", Name: "k"}.WithSecret()
	kind, id, ok := access.Parse(one.Secret)
	if !ok || kind != access.Key || id != one.ID || !strings.HasPrefix(one.Secret, "tl_key_") {
		t.Fatalf("%q is of %s %q, %v", one.Secret, kind, id, ok)
	}
	now := time.Now()
	if !one.Opens(one.Secret, now) || one.Opens(other.Secret, now) || one.Opens("", now) {
		t.Error("opens what it should not, or not what it should")
	}
	swapped := strings.Replace(other.Secret, other.ID, one.ID, 1)
	if one.Opens(swapped, now) {
		t.Error("the id alone opens")
	}
}

func TestRolesAndRights(t *testing.T) {
	all := []access.Right{access.Decide, access.Read, access.Change, access.Govern}
	for role, want := range map[access.Role]string{
		access.Service: "decide", access.Viewer: "read", access.Operator: "decide read change", access.Owner: "decide read change govern",
		"king": "", "": "",
	} {
		var has []string
		for _, right := range all {
			if role.May(right) {
				has = append(has, string(right))
			}
		}
		if got := strings.Join(has, " "); got != want {
			t.Errorf("%q may %s, want %s", role, got, want)
		}
	}
}
