package pgtiers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// Do implements tiers.Writer. It reads the view, decides, and writes the edits in one
// transaction.
func (c *Catalogue) Do(ctx context.Context, command tiers.Command) (r tiers.Result, err error) {
	if command.DryRun {
		err = c.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
			r, err = decide(ctx, tx, &command)
			return err
		})
		return r, err
	}
	err = c.write(ctx, patience(len(command.Operations)), func(ctx context.Context, tx pgx.Tx) error {
		if r, err = decide(ctx, tx, &command); err != nil {
			return err
		}
		if len(r.Edits) == 0 {
			return nil
		}
		if err := writeEdits(ctx, tx, r.Edits); err != nil {
			return err
		}
		events, err := tiers.EventsOf(&command, &r)
		if err != nil {
			return err
		}
		return insertEvents(ctx, tx, events)
	})
	return r, err
}

// patience returns the timeout of a command with the given number of operations.
func patience(operations int) time.Duration {
	return min(queryTimeout+time.Duration(operations)*time.Millisecond, 5*time.Minute)
}

func decide(ctx context.Context, tx pgx.Tx, command *tiers.Command) (tiers.Result, error) {
	v, err := loadView(ctx, tx, command)
	if err == nil && v.repeated {
		err = tiers.ErrRepeated
	}
	if err != nil {
		return tiers.Result{}, err
	}
	return tiers.Decide(v, command, v.now)
}

// writeEdits writes edits in their order, in one round trip, and stamps each with the version
// that the database drew.
func writeEdits(ctx context.Context, tx pgx.Tx, edits []tiers.Edit) error {
	batch := &pgx.Batch{}
	for len(edits) > 0 {
		n := 1
		switch after := edits[0].After.(type) {
		case tiers.Tier:
			putTier(batch, &edits[0], after)
		case tiers.Subject:
			n = together(edits)
			putSubjects(batch, edits[:n])
		case tiers.Override:
			n = together(edits)
			putOverrides(batch, edits[:n])
		case access.Credential:
			putCredential(batch, &edits[0], after)
		case tiers.LoadControl:
			batch.Queue(`
				INSERT INTO tierlimit.load_control (mode, pins) VALUES ($1, $2)
				ON CONFLICT (only_row) DO UPDATE SET mode = $1, pins = $2 RETURNING version`, after.Mode, after.Pins).QueryRow(stamp(&edits[0]))
		case tiers.Webhook:
			putWebhook(batch, &edits[0], after)
		default:
			remove(batch, edits[0].Ref)
		}
		edits = edits[n:]
	}
	return tx.SendBatch(ctx, batch).Close()
}

// together returns how many of the first edits can be written by one statement: they put
// distinct objects of one kind. Imports depend on it.
func together(edits []tiers.Edit) (n int) {
	seen := make(map[tiers.Ref]bool)
	for n < len(edits) && edits[n].Kind == edits[0].Kind && edits[n].After != nil && !seen[edits[n].Ref] {
		seen[edits[n].Ref] = true
		n++
	}
	return n
}

// stamp returns a row reader that stamps e with the version in the row.
func stamp(e *tiers.Edit) func(pgx.Row) error {
	return func(row pgx.Row) error {
		var version int64
		if err := row.Scan(&version); err != nil {
			return fmt.Errorf("version of %s %q: %w", e.Kind, e.Object, err)
		}
		e.Stamp(version)
		return nil
	}
}

// putTier queues the statements for a tier. Columns unknown to this release keep their values.
// The version is read last, because writing a limit changes the tier's version.
func putTier(batch *pgx.Batch, e *tiers.Edit, t tiers.Tier) {
	var start, full, floor *float64
	if t.Load != nil {
		start, full, floor = &t.Load.Start, &t.Load.Full, &t.Load.Floor
	}
	batch.Queue(`
		INSERT INTO tierlimit.tiers (key, name, is_default, priority, on_store_error, load_start, load_full, load_floor, denials, alerts)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (key) DO UPDATE SET name = $2, is_default = $3, priority = $4, on_store_error = $5,
			load_start = $6, load_full = $7, load_floor = $8, denials = $9, alerts = $10`,
		t.Key, t.Name, t.Default, t.Priority, string(t.OnStoreError), start, full, floor, string(t.Denials), append([]int{}, t.Alerts...))
	names := slices.Sorted(maps.Keys(t.Limits))
	batch.Queue(`DELETE FROM tierlimit.limits WHERE tier = $1 AND name <> ALL ($2)`, t.Key, names)
	for _, name := range names {
		l := t.Limits[name]
		batch.Queue(`
			INSERT INTO tierlimit.limits (tier, name, scope, max, window_ms, period, adaptive, shadow, anchor, algorithm, on_expiry, alerts)
			VALUES ($1, $2, $3, nullif($4::bigint, -1), nullif($5::bigint, 0), nullif($6, ''), $7, $8, $9, $10, $11, $12)
			ON CONFLICT (tier, name) DO UPDATE SET scope = excluded.scope, max = excluded.max, window_ms = excluded.window_ms,
				period = excluded.period, adaptive = excluded.adaptive, shadow = excluded.shadow, anchor = excluded.anchor,
				algorithm = excluded.algorithm, on_expiry = excluded.on_expiry, alerts = excluded.alerts`,
			t.Key, name, l.Scope, l.Max, l.Window.Length.Milliseconds(), string(l.Window.Period), l.Adaptive, l.Shadow,
			cmp.Or(string(l.Anchor), calendar), cmp.Or(string(l.Algorithm), string(tierlimit.Fixed)), cmp.Or(string(l.OnExpiry), string(tierlimit.ChargeOnExpiry)), l.Alerts)
	}
	batch.Queue(`SELECT version FROM tierlimit.tiers WHERE key = $1`, t.Key).QueryRow(stamp(e))
}

func putSubjects(batch *pgx.Batch, edits []tiers.Edit) {
	n := len(edits)
	at := make(map[string]*tiers.Edit, n)
	ids, on, trials, nexts, statuses := make([]string, n), make([]string, n), make([]*string, n), make([]*string, n), make([]string, n)
	trialEnds, nextAt, anchors, graces, blocked := make([]*time.Time, n), make([]*time.Time, n), make([]*time.Time, n), make([]*time.Time, n), make([]*time.Time, n)
	for i := range edits {
		s, _ := edits[i].After.(tiers.Subject)
		at[s.ID] = &edits[i]
		ids[i], on[i], statuses[i] = s.ID, s.Tier, string(s.Status)
		anchors[i], graces[i], blocked[i] = s.BillingAnchor, s.GraceUntil, s.BlockedUntil
		if s.Trial != nil {
			trials[i], trialEnds[i] = &s.Trial.Tier, &s.Trial.EndsAt
		}
		if s.Next != nil {
			nexts[i], nextAt[i] = &s.Next.Tier, &s.Next.At
		}
	}
	batch.Queue(`
		INSERT INTO tierlimit.subjects (id, tier, trial_tier, trial_ends_at, next_tier, next_at, billing_anchor, status, grace_until, blocked_until)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::timestamptz[],
			$7::timestamptz[], $8::text[], $9::timestamptz[], $10::timestamptz[])
		ON CONFLICT (id) DO UPDATE SET tier = excluded.tier, trial_tier = excluded.trial_tier, trial_ends_at = excluded.trial_ends_at,
			next_tier = excluded.next_tier, next_at = excluded.next_at, billing_anchor = excluded.billing_anchor,
			status = excluded.status, grace_until = excluded.grace_until, blocked_until = excluded.blocked_until
		RETURNING id, version`,
		ids, on, trials, trialEnds, nexts, nextAt, anchors, statuses, graces, blocked).Query(func(rows pgx.Rows) error {
		var id string
		var version int64
		_, err := pgx.ForEachRow(rows, []any{&id, &version}, func() error {
			at[id].Stamp(version)
			return nil
		})
		return err
	})
}

func putOverrides(batch *pgx.Batch, edits []tiers.Edit) {
	n := len(edits)
	at := make(map[tiers.Ref]*tiers.Edit, n)
	subjects, limits, reasons := make([]string, n), make([]string, n), make([]string, n)
	most, starts, ends := make([]int64, n), make([]time.Time, n), make([]time.Time, n)
	for i := range edits {
		o, _ := edits[i].After.(tiers.Override)
		at[edits[i].Ref] = &edits[i]
		subjects[i], limits[i], reasons[i], most[i], starts[i], ends[i] = edits[i].Object, o.Limit, o.Reason, o.Max, o.StartsAt, o.ExpiresAt
	}
	batch.Queue(`
		INSERT INTO tierlimit.overrides (subject, limit_name, max, starts_at, expires_at, reason)
		SELECT u.subject, u.limit_name, nullif(u.max, -1), u.starts_at, u.expires_at, u.reason
		FROM unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::text[])
			AS u (subject, limit_name, max, starts_at, expires_at, reason)
		ON CONFLICT (subject, limit_name) DO UPDATE SET max = excluded.max, starts_at = excluded.starts_at,
			expires_at = excluded.expires_at, reason = excluded.reason
		RETURNING subject, limit_name, version`, subjects, limits, most, starts, ends, reasons).Query(func(rows pgx.Rows) error {
		var subject, limit string
		var version int64
		_, err := pgx.ForEachRow(rows, []any{&subject, &limit, &version}, func() error {
			at[tiers.OverrideRef(subject, limit)].Stamp(version)
			return nil
		})
		return err
	})
}

func putCredential(batch *pgx.Batch, e *tiers.Edit, c access.Credential) {
	batch.Queue(`
		INSERT INTO tierlimit.credentials (id, kind, name, role, expires_at, subject, hash, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (id) DO UPDATE SET name = $3, role = $4, expires_at = $5
		RETURNING version`,
		c.ID, string(c.Kind), c.Name, textOrNull(string(c.Role)), c.ExpiresAt, textOrNull(c.Subject), c.Hash[:], c.CreatedAt).
		QueryRow(stamp(e))
}

func remove(batch *pgx.Batch, ref tiers.Ref) {
	switch ref.Kind {
	case tiers.KindTier:
		batch.Queue(`DELETE FROM tierlimit.tiers WHERE key = $1`, ref.Object)
	case tiers.KindSubject:
		batch.Queue(`DELETE FROM tierlimit.subjects WHERE id = $1`, ref.Object)
	case tiers.KindOverride:
		batch.Queue(`DELETE FROM tierlimit.overrides WHERE subject = $1 AND limit_name = $2`, ref.Object, ref.Limit)
	case tiers.KindWebhook:
		batch.Queue(`DELETE FROM tierlimit.webhooks WHERE id = $1`, ref.Object)
	default:
		batch.Queue(`DELETE FROM tierlimit.credentials WHERE id = $1`, ref.Object)
	}
}

// insertEvents writes events in one statement.
func insertEvents(ctx context.Context, tx pgx.Tx, events []tiers.Event) error {
	n := len(events)
	text := func(of func(*tiers.Event) string) []string {
		list := make([]string, n)
		for i := range events {
			list[i] = of(&events[i])
		}
		return list
	}
	json := func(of func(*tiers.Event) []byte) []*string {
		list := make([]*string, n)
		for i := range events {
			if data := of(&events[i]); data != nil {
				list[i] = textOrNull(string(data))
			}
		}
		return list
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO tierlimit.audit (actor, actor_id, action, kind, object, detail, before, after, attempt_key, attempt_fingerprint)
		SELECT e.actor, e.actor_id, e.action, e.kind, e.object, e.detail, e.before::jsonb, e.after::jsonb,
			nullif(e.attempt_key, ''), nullif(e.attempt_fingerprint, '')
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[])
			WITH ORDINALITY AS e (actor, actor_id, action, kind, object, detail, before, after, attempt_key, attempt_fingerprint, n)
		ORDER BY e.n`,
		text(func(e *tiers.Event) string { return cmp.Or(e.Actor, "unknown") }), text(func(e *tiers.Event) string { return e.ActorID }),
		text(func(e *tiers.Event) string { return e.Action }), text(func(e *tiers.Event) string { return e.Kind }),
		text(func(e *tiers.Event) string { return e.Object }), text(func(e *tiers.Event) string { return e.Detail }),
		json(func(e *tiers.Event) []byte { return e.Before }), json(func(e *tiers.Event) []byte { return e.After }),
		text(func(e *tiers.Event) string { return e.Attempt.Key }), text(func(e *tiers.Event) string { return e.Attempt.Fingerprint }))
	return err
}

// Record implements tiers.Catalogue.
func (c *Catalogue) Record(ctx context.Context, e tiers.Event, do func(context.Context) error) error {
	var unknown error
	err := c.in(context.WithoutCancel(ctx), c.admin, latest, queryTimeout, func(ctx context.Context, tx pgx.Tx) error {
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { // a savepoint
			if err := insertEvents(ctx, tx, []tiers.Event{e}); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, queryTimeout/2) // the event is written after it
			defer cancel()
			return do(ctx)
		})
		if err == nil || !e.MarkUnknown(err) {
			return err
		}
		unknown = err
		return insertEvents(ctx, tx, []tiers.Event{e})
	})
	return errors.Join(unknown, err)
}
