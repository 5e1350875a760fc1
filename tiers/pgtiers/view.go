package pgtiers

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// A view is the tiers.View for one command. It has the objects that the operations name or
// may affect.
type view struct {
	now         time.Time // the database's
	repeated    bool      // whether a command with the same attempt was made before
	tiers       []tiers.Tier
	subjects    map[string]tiers.Subject
	credentials map[string]access.Credential
	load        tiers.LoadControl
	webhooks    []tiers.Webhook
	on          map[string]tierUse // by key, for the tiers that the command deletes
}

type tierUse struct {
	count  int
	first  []string
	naming []tiers.Subject
}

var _ tiers.View = (*view)(nil)

// Tiers implements tiers.View.
func (v *view) Tiers() []tiers.Tier { return v.tiers }

// Subject implements tiers.View.
func (v *view) Subject(id string) (tiers.Subject, bool) {
	s, ok := v.subjects[id]
	return s, ok
}

// Credential implements tiers.View.
func (v *view) Credential(id string) (access.Credential, bool) {
	c, ok := v.credentials[id]
	return c, ok
}

// KeysOf implements tiers.View.
func (v *view) KeysOf(subject string) (list []access.Credential) {
	for _, c := range v.credentials {
		if c.Kind == access.Key && c.Subject == subject {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b access.Credential) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// TokenNamed implements tiers.View.
func (v *view) TokenNamed(name string) (access.Credential, bool) {
	for _, c := range v.credentials {
		if c.Kind == access.Token && c.Name == name {
			return c, true
		}
	}
	return access.Credential{}, false
}

// On implements tiers.View.
func (v *view) On(tier string) (count int, first []string) { return v.on[tier].count, v.on[tier].first }

// Naming implements tiers.View.
func (v *view) Naming(tier string) []tiers.Subject { return v.on[tier].naming }

// LoadControl implements tiers.View.
func (v *view) LoadControl() tiers.LoadControl { return v.load }

// Webhooks implements tiers.View.
func (v *view) Webhooks() []tiers.Webhook { return v.webhooks }

// needs lists the objects that the operations of a command name.
type needs struct {
	subjects    []string // ids
	leaving     []string // ids of deleted subjects, whose keys are needed
	credentials []string // ids
	tokens      []string // names
	deleted     []string // keys of tiers
	webhooks    bool     // whether any webhook is named
}

func needsOf(c *tiers.Command) (n needs) {
	for i := range c.Operations {
		o := &c.Operations[i]
		gone := o.Put == nil && o.Patch == nil
		switch o.Kind {
		case tiers.KindTier:
			if gone {
				n.deleted = append(n.deleted, o.Object)
			}
		case tiers.KindSubject:
			n.subjects = append(n.subjects, o.Object)
			if gone {
				n.leaving = append(n.leaving, o.Object)
			}
		case tiers.KindOverride:
			n.subjects = append(n.subjects, o.Object)
		case tiers.KindWebhook:
			n.webhooks = true
		case string(access.Key), string(access.Token):
			n.credentials = append(n.credentials, o.Object)
			var says struct{ Name, Subject string }
			if put, ok := o.Put.(access.Credential); ok {
				says.Name, says.Subject = put.Name, put.Subject
			}
			_ = json.Unmarshal(o.Patch, &says) // Decide reports an invalid patch
			n.subjects, n.tokens = append(n.subjects, says.Subject), append(n.tokens, says.Name)
		}
	}
	// Invalid names cannot exist, and Postgres may be unable to encode them.
	n.subjects = slices.DeleteFunc(n.subjects, func(id string) bool { return !tierlimit.ValidSubject(id) })
	n.leaving = slices.DeleteFunc(n.leaving, func(id string) bool { return !tierlimit.ValidSubject(id) })
	n.credentials = slices.DeleteFunc(n.credentials, func(id string) bool { return !access.ValidID(id) })
	n.tokens = slices.DeleteFunc(n.tokens, func(name string) bool { return !utf8.ValidString(name) || strings.ContainsRune(name, 0) })
	n.deleted = slices.DeleteFunc(n.deleted, func(key string) bool { return !tierlimit.ValidName(key) })
	return n
}

// loadView reads the view for a command in one round trip. A caller that writes must hold the
// lock on the version row, so that the view stays current until it commits.
func loadView(ctx context.Context, tx pgx.Tx, c *tiers.Command) (*view, error) {
	v := &view{
		subjects: make(map[string]tiers.Subject), credentials: make(map[string]access.Credential), on: make(map[string]tierUse),
	}
	n := needsOf(c)
	batch := &pgx.Batch{}
	batch.Queue(`SELECT now(), EXISTS (SELECT FROM tierlimit.audit WHERE attempt_key = nullif($1, ''))`, c.Attempt.Key).
		QueryRow(func(row pgx.Row) error { return row.Scan(&v.now, &v.repeated) })
	readTiers := queueTiers(batch, "")
	batch.Queue(`SELECT `+subjectColumns+` FROM tierlimit.subjects s 
		WHERE s.id = ANY ($1) OR s.id IN (SELECT k.subject FROM tierlimit.credentials k WHERE k.id = ANY ($2))`, n.subjects, n.credentials).
		Query(func(rows pgx.Rows) error {
			list, err := subjectsOf(rows)
			for _, s := range list {
				v.subjects[s.ID] = s
			}
			return err
		})
	batch.Queue(`
		SELECT `+credentialColumns+` FROM tierlimit.credentials k
		WHERE k.id = ANY ($1) OR k.subject = ANY ($2) OR k.kind = 'token' AND k.name = ANY ($3)`, n.credentials, n.leaving, n.tokens).
		Query(func(rows pgx.Rows) error {
			list, err := credentialsOf(rows)
			for _, k := range list {
				v.credentials[k.ID] = k
			}
			return err
		})
	queueLoadControl(batch, &v.load)
	if n.webhooks { // a role that may not read them may change everything else
		queueWebhooks(batch, &v.webhooks)
	}
	for _, key := range n.deleted {
		queueUse(batch, key, v.on)
	}
	err := tx.SendBatch(ctx, batch).Close()
	if err != nil {
		return nil, err
	}
	v.tiers = readTiers()
	return v, nil
}

// queueUse queues the queries for the subjects that use a tier.
func queueUse(batch *pgx.Batch, key string, on map[string]tierUse) {
	f := tiers.SubjectFilter{Tier: key}
	update := func(change func(*tierUse)) {
		use := on[key]
		change(&use)
		on[key] = use
	}
	batch.Queue(`SELECT count(*)`+chosenSubjects, f.Tier, "", "").QueryRow(func(row pgx.Row) error {
		var n int
		err := row.Scan(&n)
		update(func(u *tierUse) { u.count = n })
		return err
	})
	batch.Queue(`SELECT s.id`+chosenSubjects+` ORDER BY s.id LIMIT $4`, f.Tier, "", "", tiers.InTheWay).Query(func(rows pgx.Rows) error {
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		update(func(u *tierUse) { u.first = list })
		return err
	})
	batch.Queue(`
		SELECT `+subjectColumns+` FROM tierlimit.subjects s
		WHERE s.tier = $1 AND s.next_at <= now() OR s.trial_tier = $1 AND s.trial_ends_at <= now()`, key).Query(func(rows pgx.Rows) error {
		list, err := subjectsOf(rows)
		update(func(u *tierUse) { u.naming = list })
		return err
	})
}
