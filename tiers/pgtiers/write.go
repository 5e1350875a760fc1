package pgtiers

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// Do implements tiers.Writer: the rules decide on what is there, and what they say is
// written, in one transaction.
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

// patience returns how long a command of so many operations may take.
func patience(operations int) time.Duration {
	return queryTimeout + time.Duration(operations)*time.Millisecond
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

// writeEdits writes what has become of each thing, and stamps the edits with the versions
// that the database drew. Where a thing was edited twice, the last edit is written.
func writeEdits(ctx context.Context, tx pgx.Tx, edits []tiers.Edit) error {
	final := make(map[tiers.Ref]*tiers.Edit)
	for i := range edits {
		final[edits[i].Ref] = &edits[i]
	}
	versions := make(map[tiers.Ref]int64)
	batch := &pgx.Batch{}
	w := writer{batch: batch, final: final, drawn: func(ref tiers.Ref, version int64) { versions[ref] = version }}
	w.putTiers()
	w.putSubjects()
	w.putOverrides()
	w.putCredentials()
	w.putLoadControl()
	w.removeAll()
	w.readTierVersions()
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	for i := range edits {
		if version, ok := versions[edits[i].Ref]; ok {
			edits[i].Stamp(version)
		}
	}
	return nil
}

// A writer queues the statements for what has become of things.
type writer struct {
	batch *pgx.Batch
	final map[tiers.Ref]*tiers.Edit
	drawn func(ref tiers.Ref, version int64)
}

// those returns the refs of one kind that were put, or that were removed, in order.
func (w *writer) those(kind string, put bool) []tiers.Ref {
	var list []tiers.Ref
	for ref, e := range w.final {
		if ref.Kind == kind && (e.After != nil) == put {
			list = append(list, ref)
		}
	}
	slices.SortFunc(list, func(a, b tiers.Ref) int {
		return cmp.Or(strings.Compare(a.Object, b.Object), strings.Compare(a.Limit, b.Limit))
	})
	return list
}

// putOf returns what was put of one kind, in order.
func putOf[T any](w *writer, kind string) (refs []tiers.Ref, list []T) {
	refs = w.those(kind, true)
	for _, ref := range refs {
		one, _ := w.final[ref].After.(T)
		list = append(list, one)
	}
	return refs, list
}

// putTiers writes those first that cease to be the default: there is never more than one.
// Columns that this release does not know are left as they are.
func (w *writer) putTiers() {
	_, list := putOf[tiers.Tier](w, tiers.KindTier)
	slices.SortStableFunc(list, func(a, b tiers.Tier) int {
		switch {
		case a.Default == b.Default:
			return 0
		case b.Default:
			return -1
		}
		return 1
	})
	for _, t := range list {
		var start, full, floor *float64
		if t.Load != nil {
			start, full, floor = &t.Load.Start, &t.Load.Full, &t.Load.Floor
		}
		w.batch.Queue(`
			INSERT INTO tierlimit.tiers (key, name, is_default, priority, on_store_error, load_start, load_full, load_floor)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (key) DO UPDATE SET name = $2, is_default = $3, priority = $4, on_store_error = $5,
				load_start = $6, load_full = $7, load_floor = $8`,
			t.Key, t.Name, t.Default, t.Priority, string(t.OnStoreError), start, full, floor)
		names := slices.Sorted(maps.Keys(t.Limits))
		w.batch.Queue(`DELETE FROM tierlimit.limits WHERE tier = $1 AND name <> ALL ($2)`, t.Key, names)
		for _, name := range names {
			l := t.Limits[name]
			w.batch.Queue(`
				INSERT INTO tierlimit.limits (tier, name, scope, max, window_ms, period, adaptive, shadow, anchor, algorithm, on_expiry)
				VALUES ($1, $2, $3, nullif($4::bigint, -1), nullif($5::bigint, 0), nullif($6, ''), $7, $8, $9, $10, $11)
				ON CONFLICT (tier, name) DO UPDATE SET scope = excluded.scope, max = excluded.max, window_ms = excluded.window_ms,
					period = excluded.period, adaptive = excluded.adaptive, shadow = excluded.shadow, anchor = excluded.anchor,
					algorithm = excluded.algorithm, on_expiry = excluded.on_expiry`,
				t.Key, name, l.Scope, l.Max, l.Window.Length.Milliseconds(), string(l.Window.Period), l.Adaptive, l.Shadow,
				anchorText(l.Anchored), cmp.Or(string(l.Algorithm), string(tierlimit.Fixed)), cmp.Or(string(l.OnExpiry), string(tierlimit.ChargeOnExpiry)))
		}
	}
}

// readTierVersions reads them once limits are written, each of which is a change of its
// tier too.
func (w *writer) readTierVersions() {
	refs := w.those(tiers.KindTier, true)
	if len(refs) == 0 {
		return
	}
	w.batch.Queue(`SELECT key, version FROM tierlimit.tiers WHERE key = ANY ($1)`, objectsOf(refs)).Query(func(rows pgx.Rows) error {
		var key string
		var version int64
		_, err := pgx.ForEachRow(rows, []any{&key, &version}, func() error {
			w.drawn(tiers.TierRef(key), version)
			return nil
		})
		return err
	})
}

func objectsOf(refs []tiers.Ref) []string {
	list := make([]string, len(refs))
	for i, ref := range refs {
		list[i] = ref.Object
	}
	return list
}

// putSubjects writes all in one statement: thousands of customers are imported so.
func (w *writer) putSubjects() {
	_, list := putOf[tiers.Subject](w, tiers.KindSubject)
	n := len(list)
	if n == 0 {
		return
	}
	ids, on, trials, nexts, statuses := make([]string, n), make([]string, n), make([]*string, n), make([]*string, n), make([]string, n)
	trialEnds, nextAt, anchors, graces, blocked := make([]*time.Time, n), make([]*time.Time, n), make([]*time.Time, n), make([]*time.Time, n), make([]*time.Time, n)
	for i := range list {
		s := &list[i]
		ids[i], on[i], statuses[i] = s.ID, s.Tier, string(s.Status)
		anchors[i], graces[i], blocked[i] = s.BillingAnchor, s.GraceUntil, s.BlockedUntil
		if s.Trial != nil {
			trials[i], trialEnds[i] = &s.Trial.Tier, &s.Trial.EndsAt
		}
		if s.Next != nil {
			nexts[i], nextAt[i] = &s.Next.Tier, &s.Next.At
		}
	}
	w.batch.Queue(`
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
			w.drawn(tiers.SubjectRef(id), version)
			return nil
		})
		return err
	})
}

func (w *writer) putOverrides() {
	refs, list := putOf[tiers.Override](w, tiers.KindOverride)
	n := len(list)
	if n == 0 {
		return
	}
	subjects, limits, reasons := make([]string, n), make([]string, n), make([]string, n)
	most, starts, ends := make([]int64, n), make([]time.Time, n), make([]time.Time, n)
	for i, o := range list {
		subjects[i], limits[i], reasons[i], most[i], starts[i], ends[i] = refs[i].Object, o.Limit, o.Reason, o.Max, o.StartsAt, o.ExpiresAt
	}
	w.batch.Queue(`
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
			w.drawn(tiers.OverrideRef(subject, limit), version)
			return nil
		})
		return err
	})
}

func (w *writer) putCredentials() {
	for _, kind := range []access.Kind{access.Key, access.Token} {
		_, list := putOf[access.Credential](w, string(kind))
		for _, c := range list {
			w.batch.Queue(`
				INSERT INTO tierlimit.credentials (id, kind, name, role, expires_at, subject, hash, created_at)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
				ON CONFLICT (id) DO UPDATE SET name = $3, role = $4, expires_at = $5
				RETURNING version`,
				c.ID, string(c.Kind), c.Name, textOrNull(string(c.Role)), c.ExpiresAt, textOrNull(c.Subject), c.Hash[:], c.CreatedAt).
				QueryRow(w.version(tiers.CredentialRef(kind, c.ID)))
		}
	}
}

func (w *writer) putLoadControl() {
	_, list := putOf[tiers.LoadControl](w, tiers.KindLoad)
	for _, l := range list {
		w.batch.Queue(`
			INSERT INTO tierlimit.load_control (mode, pins) VALUES ($1, $2)
			ON CONFLICT (only_row) DO UPDATE SET mode = $1, pins = $2 RETURNING version`, l.Mode, l.Pins).
			QueryRow(w.version(tiers.LoadRef()))
	}
}

func (w *writer) version(ref tiers.Ref) func(pgx.Row) error {
	return func(row pgx.Row) error {
		var version int64
		if err := row.Scan(&version); err != nil {
			return fmt.Errorf("version of %s %q: %w", ref.Kind, ref.Object, err)
		}
		w.drawn(ref, version)
		return nil
	}
}

// removeAll deletes what is gone. What belongs to a subject goes with it, by the foreign
// keys.
func (w *writer) removeAll() {
	leaves := func(subject string) bool {
		e := w.final[tiers.SubjectRef(subject)]
		return e != nil && e.After == nil
	}
	for _, ref := range w.those(tiers.KindOverride, false) {
		if !leaves(ref.Object) {
			w.batch.Queue(`DELETE FROM tierlimit.overrides WHERE subject = $1 AND limit_name = $2`, ref.Object, ref.Limit)
		}
	}
	for _, kind := range []access.Kind{access.Key, access.Token} {
		if refs := w.those(string(kind), false); len(refs) > 0 {
			w.batch.Queue(`DELETE FROM tierlimit.credentials WHERE id = ANY ($1)`, objectsOf(refs))
		}
	}
	if refs := w.those(tiers.KindSubject, false); len(refs) > 0 {
		w.batch.Queue(`DELETE FROM tierlimit.subjects WHERE id = ANY ($1)`, objectsOf(refs))
	}
	if refs := w.those(tiers.KindTier, false); len(refs) > 0 {
		w.batch.Queue(`DELETE FROM tierlimit.tiers WHERE key = ANY ($1)`, objectsOf(refs))
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
	return c.in(ctx, c.admin, latest, queryTimeout, func(ctx context.Context, tx pgx.Tx) error {
		if err := insertEvents(ctx, tx, []tiers.Event{e}); err != nil {
			return err
		}
		return do(ctx)
	})
}
