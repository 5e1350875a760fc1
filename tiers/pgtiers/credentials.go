package pgtiers

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// credentialColumns are a credentialRow, of tierlimit.credentials as k or of none.
const credentialColumns = `
	coalesce(k.id, '') AS id, coalesce(k.kind, '') AS kind, coalesce(k.name, '') AS name, k.subject, k.role, k.hash,
	coalesce(k.created_at, now()) AS created_at, k.expires_at, k.last_used_at, coalesce(k.version, 0) AS version`

type credentialRow struct {
	ID         string
	Kind       string
	Name       string
	Subject    *string
	Role       *string
	Hash       []byte
	CreatedAt  time.Time
	ExpiresAt  *time.Time
	LastUsedAt *time.Time
	Version    int64
}

func (r *credentialRow) credential() access.Credential {
	c := access.Credential{
		ID: r.ID, Kind: access.Kind(r.Kind), Name: r.Name, CreatedAt: r.CreatedAt,
		ExpiresAt: r.ExpiresAt, LastUsedAt: r.LastUsedAt, Version: r.Version,
	}
	if r.Subject != nil {
		c.Subject = *r.Subject
	}
	if r.Role != nil {
		c.Role = access.Role(*r.Role)
	}
	copy(c.Hash[:], r.Hash)
	c.Normalize()
	return c
}

func credentialsOf(rows pgx.Rows, _ error) ([]access.Credential, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (access.Credential, error) {
		r, err := pgx.RowToStructByName[credentialRow](row)
		return r.credential(), err
	})
}

// Credentials implements tiers.CredentialCatalogue.
func (c *Catalogue) Credentials(ctx context.Context, f tiers.CredentialFilter) ([]access.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	list, err := credentialsOf(c.pool.Query(ctx, `
		SELECT `+credentialColumns+` FROM tierlimit.credentials k
		WHERE k.kind = $1 AND ($2 = '' OR k.subject = $2) AND k.id > $3 ORDER BY k.id LIMIT $4`,
		string(f.Kind), f.Subject, f.After, f.Most))
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", unavailable(err))
	}
	return list, nil
}

// Credential implements tiers.CredentialCatalogue.
func (c *Catalogue) Credential(ctx context.Context, kind access.Kind, id string) (access.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	one, err := selectCredential(ctx, c.pool, kind, id)
	return one, unavailable(err)
}

func selectCredential(ctx context.Context, q querier, kind access.Kind, id string) (access.Credential, error) {
	if !access.ValidID(id) {
		return access.Credential{}, tiers.CredentialError(kind, id, tiers.ErrNotFound)
	}
	list, err := credentialsOf(q.Query(ctx, `
		SELECT `+credentialColumns+` FROM tierlimit.credentials k WHERE k.id = $1 AND k.kind = $2`, id, string(kind)))
	if err == nil && len(list) == 0 {
		err = tiers.CredentialError(kind, id, tiers.ErrNotFound)
	}
	if err != nil {
		return access.Credential{}, err
	}
	return list[0], nil
}

// CreateCredential implements tiers.CredentialCatalogue.
func (c *Catalogue) CreateCredential(ctx context.Context, one access.Credential) (access.Credential, error) {
	one.CreatedAt, one.LastUsedAt = time.Now(), nil
	return c.putCredential(ctx, one, `
		INSERT INTO tierlimit.credentials (id, kind, name, role, expires_at, subject, hash, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		func(context.Context, pgx.Tx) (before any, rest []any, err error) {
			return nil, []any{textOrNull(one.Subject), one.Hash[:], one.CreatedAt}, nil
		})
}

// ReplaceCredential implements tiers.CredentialCatalogue.
func (c *Catalogue) ReplaceCredential(ctx context.Context, one access.Credential, version int64) (access.Credential, error) {
	return c.putCredential(ctx, one, `
		UPDATE tierlimit.credentials SET name = $3, role = $4, expires_at = $5 WHERE id = $1 AND kind = $2`,
		func(ctx context.Context, tx pgx.Tx) (before any, rest []any, err error) {
			old, err := credentialAt(ctx, tx, one.Kind, one.ID, version)
			if err == nil && old.Subject != one.Subject {
				err = tiers.OtherSubjectError(one.Subject)
			}
			return old, nil, err
		})
}

// putCredential writes one once check has agreed and said what was there before,
// in one transaction.
func (c *Catalogue) putCredential(ctx context.Context, one access.Credential, write string, check func(context.Context, pgx.Tx) (before any, rest []any, err error)) (written access.Credential, err error) {
	one.Normalize()
	if err := one.Validate(); err != nil {
		return access.Credential{}, err
	}
	err = c.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		before, rest, err := check(ctx, tx)
		if err != nil {
			return err
		}
		var there, named bool
		if err := tx.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM tierlimit.subjects WHERE id = $1),
				EXISTS (SELECT FROM tierlimit.credentials WHERE kind = 'token' AND name = $2 AND id <> $3)`,
			one.Subject, one.Name, one.ID).Scan(&there, &named); err != nil {
			return err
		}
		if one.Kind == access.Key && !there {
			return tiers.UnknownSubjectError(one.Subject)
		}
		if one.Kind == access.Token && named {
			return tiers.TokenNameError(one.Name)
		}
		args := append([]any{one.ID, string(one.Kind), one.Name, textOrNull(string(one.Role)), one.ExpiresAt}, rest...)
		if _, err := tx.Exec(ctx, write, args...); err != nil {
			return err
		}
		if written, err = selectCredential(ctx, tx, one.Kind, one.ID); err != nil {
			return err
		}
		return audit(ctx, tx, string(one.Kind), one.ID, written.Subject, before, written)
	})
	return written, err
}

// DeleteCredential implements tiers.CredentialCatalogue.
func (c *Catalogue) DeleteCredential(ctx context.Context, kind access.Kind, id string, version int64) error {
	return c.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		old, err := credentialAt(ctx, tx, kind, id, version)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM tierlimit.credentials WHERE id = $1`, id); err != nil {
			return err
		}
		return audit(ctx, tx, string(kind), id, old.Subject, old, nil)
	})
}

func credentialAt(ctx context.Context, tx pgx.Tx, kind access.Kind, id string, version int64) (access.Credential, error) {
	one, err := selectCredential(ctx, tx, kind, id)
	if err == nil && one.Version != version {
		err = tiers.CredentialError(kind, id, tiers.ErrStale)
	}
	return one, err
}

// LookupCredentials implements tiers.Source; see LookupSubjects.
func (c *Catalogue) LookupCredentials(ctx context.Context, ids []string) (found []access.Credential, version int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, _ := c.pool.Query(ctx, `
		SELECT c.version AS read_at, `+credentialColumns+`
		FROM tierlimit.catalogue c LEFT JOIN tierlimit.credentials k ON k.id = ANY ($1)`, ids)
	type foundRow struct {
		credentialRow
		ReadAt int64
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[foundRow])
	if err != nil {
		return nil, 0, fmt.Errorf("look up %d credentials: %w", len(ids), unavailable(err))
	}
	for i := range list {
		version = list[i].ReadAt
		if list[i].ID != "" {
			found = append(found, list[i].credential())
		}
	}
	return found, version, nil
}

// UsedCredentials implements tiers.Source. It is no change: nobody is notified,
// and no version drawn.
func (c *Catalogue) UsedCredentials(ctx context.Context, used map[string]time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	ids, instants := make([]string, 0, len(used)), make([]time.Time, 0, len(used))
	for id, at := range used {
		ids, instants = append(ids, id), append(instants, at)
	}
	_, err := c.pool.Exec(ctx, `
		WITH used AS (
			SELECT k.id, u.at FROM unnest($1::text[], $2::timestamptz[]) AS u (id, at) JOIN tierlimit.credentials k USING (id)
			FOR UPDATE OF k SKIP LOCKED) -- whoever changes one now is not waited for, nor in anybody's way
		UPDATE tierlimit.credentials SET last_used_at = greatest(last_used_at, used.at) FROM used WHERE credentials.id = used.id`,
		ids, instants)
	if err != nil {
		return fmt.Errorf("note %d uses: %w", len(used), unavailable(err))
	}
	return nil
}
