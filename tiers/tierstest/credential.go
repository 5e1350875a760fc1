package tierstest

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// token returns one that is ready to be created, as key does.
func token(name string, role access.Role) access.Credential {
	return access.Credential{Kind: access.Token, Name: name, Role: role}.WithSecret()
}

func key(subject string) access.Credential {
	expires := instant("2027-01-01T00:00:00.5Z")
	return access.Credential{Kind: access.Key, Name: "production", Subject: subject, ExpiresAt: &expires}.WithSecret()
}

func credentialLife(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	_, err := c.CreateCredential(ctx, key("acct_1"))
	if err == nil || !strings.Contains(err.Error(), "subject ") {
		t.Errorf("a key of nobody: %v", err)
	}
	must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "pro"}))(t)
	given := key("acct_1")
	first := must(c.CreateCredential(ctx, given))(t)
	if first.Secret != "" || first.ID != given.ID || first.Hash != given.Hash || first.Subject != "acct_1" || !first.ExpiresAt.Equal(*given.ExpiresAt) || first.CreatedAt.IsZero() {
		t.Fatalf("made %+v of %+v", first, given)
	}
	if got := must(c.Credential(ctx, access.Key, first.ID))(t); !reflect.DeepEqual(got, first) {
		t.Fatalf("created %+v\nread    %+v", first, got)
	}
	for _, refused := range []error{
		second(c.Credential(ctx, access.Token, first.ID)),
		second(c.Credential(ctx, access.Key, "no-id\x00")),
		c.DeleteCredential(ctx, access.Token, first.ID, first.Version),
	} {
		wantErr(t, refused, tiers.ErrNotFound)
	}
	wantErr(t, c.DeleteCredential(ctx, access.Key, first.ID, first.Version-1), tiers.ErrStale)

	renamed := first
	renamed.Name, renamed.ExpiresAt, renamed.Subject = "staging", nil, "acct_1"
	renamed = must(c.ReplaceCredential(ctx, renamed, first.Version))(t)
	if renamed.Version <= first.Version || renamed.Name != "staging" || renamed.ExpiresAt != nil || renamed.Hash != first.Hash {
		t.Fatalf("replaced %+v by %+v", first, renamed)
	}
	must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_2", Tier: "pro"}))(t)
	moved := renamed
	moved.Subject = "acct_2"
	if _, err := c.ReplaceCredential(ctx, moved, renamed.Version); err == nil || !strings.Contains(err.Error(), "subject ") {
		t.Errorf("a key became another subject's: %v", err)
	}
	other := must(c.CreateCredential(ctx, token("ci", access.Service)))(t)
	_, err = c.CreateCredential(ctx, token("ci", access.Owner))
	wantErr(t, err, tiers.ErrExists)
	for kind, want := range map[access.Kind]string{access.Key: first.ID, access.Token: other.ID} {
		list := must(c.Credentials(ctx, tiers.CredentialFilter{Kind: kind, Most: 10}))(t)
		if len(list) != 1 || list[0].ID != want {
			t.Errorf("the %ss are %+v", kind, list)
		}
	}
	if list := must(c.Credentials(ctx, tiers.CredentialFilter{Kind: access.Key, Subject: "acct_2", Most: 10}))(t); len(list) != 0 {
		t.Errorf("another's keys: %+v", list)
	}
	if err := c.DeleteCredential(ctx, access.Key, first.ID, renamed.Version); err != nil {
		t.Fatal(err)
	}
	wantErr(t, second(c.Credential(ctx, access.Key, first.ID)), tiers.ErrNotFound)
}

func invalidCredential(t *testing.T, c tiers.Editor) {
	wrong := access.Credential{Kind: access.Token, Subject: "acct_1", Role: "king", Name: "a\x00b", ExpiresAt: new(time.Time)}.WithSecret()
	for _, hidden := range []string{"ci\u202e", "c\u200bi", "ci\u2028"} { // names that look like another
		if _, err := c.CreateCredential(t.Context(), token(hidden, access.Viewer)); err == nil || !strings.Contains(err.Error(), "name ") {
			t.Errorf("a token named %q: %v", hidden, err)
		}
	}
	_, err := c.CreateCredential(t.Context(), wrong)
	for _, field := range []string{"name", "role", "subject", "expires_at"} {
		if err == nil || !strings.Contains(err.Error(), field+" ") {
			t.Errorf("%q is not named in %v", field, err)
		}
	}
}

func subjectTakesKeysAlong(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	s := must(c.CreateSubject(ctx, tiers.Subject{ID: "acct_1", Tier: "pro"}))(t)
	k := must(c.CreateCredential(ctx, key("acct_1")))(t)
	if err := c.DeleteSubject(ctx, "acct_1", s.Version); err != nil {
		t.Fatal(err)
	}
	wantErr(t, second(c.Credential(ctx, access.Key, k.ID)), tiers.ErrNotFound)
}

// secretsAreNotKept looks for a secret and its hash wherever somebody may look.
func secretsAreNotKept(t *testing.T, c tiers.Editor) {
	ctx := t.Context()
	given := token("ci", access.Viewer)
	made := must(c.CreateCredential(ctx, given))(t)
	seen := string(must(json.Marshal(made))(t)) + string(must(json.Marshal(must(c.Events(ctx, tiers.EventFilter{Most: 10}))(t)))(t))
	if strings.Contains(seen, given.Secret) || strings.Contains(seen, hex.EncodeToString(given.Hash[:])) || strings.Contains(seen, base64.StdEncoding.EncodeToString(given.Hash[:])) {
		t.Errorf("seen: %s", seen)
	}
}

func second[T any](_ T, err error) error { return err }
