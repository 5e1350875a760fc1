package pgtiers

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

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

func credentialsOf(rows pgx.Rows) ([]access.Credential, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (access.Credential, error) {
		r, err := pgx.RowToStructByName[credentialRow](row)
		return r.credential(), err
	})
}

// Credentials implements tiers.CredentialCatalogue.
func (c *Catalogue) Credentials(ctx context.Context, f tiers.CredentialFilter) ([]access.Credential, error) {
	list, err := c.credentials(ctx, c.admin, `
		WHERE k.kind = $1 AND ($2 = '' OR k.subject = $2) AND k.id > $3 ORDER BY k.id LIMIT $4`,
		string(f.Kind), f.Subject, f.After, f.Most)
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	return list, nil
}

// Credential implements tiers.CredentialCatalogue.
func (c *Catalogue) Credential(ctx context.Context, kind access.Kind, id string) (access.Credential, error) {
	if !access.ValidID(id) {
		return access.Credential{}, tiers.CredentialError(kind, id, tiers.ErrNotFound)
	}
	list, err := c.credentials(ctx, c.admin, `WHERE k.id = $1 AND k.kind = $2`, id, string(kind))
	if err == nil && len(list) == 0 {
		err = tiers.CredentialError(kind, id, tiers.ErrNotFound)
	}
	if err != nil {
		return access.Credential{}, err
	}
	return list[0], nil
}

// credentials returns the credentials that match an SQL condition.
func (c *Catalogue) credentials(ctx context.Context, pool *pgxpool.Pool, where string, args ...any) (list []access.Credential, err error) {
	err = c.query(ctx, pool, func(rows pgx.Rows) (err error) {
		list, err = credentialsOf(rows)
		return err
	}, `SELECT `+credentialColumns+` FROM tierlimit.credentials k `+where, args...)
	return list, err
}

// LookupCredentials implements tiers.Source; see LookupSubjects.
func (c *Catalogue) LookupCredentials(ctx context.Context, ids []string) (found []access.Credential, version int64, err error) {
	type foundRow struct {
		credentialRow
		ReadAt int64
	}
	var list []foundRow
	err = c.query(ctx, c.lookups, func(rows pgx.Rows) (err error) {
		list, err = pgx.CollectRows(rows, pgx.RowToStructByName[foundRow])
		return err
	}, `
		SELECT c.version AS read_at, `+credentialColumns+`
		FROM `+catalogueVersion+` c LEFT JOIN tierlimit.credentials k ON k.id = ANY ($1)`, ids)
	if err != nil {
		return nil, 0, fmt.Errorf("look up %d credentials: %w", len(ids), err)
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
	ids, instants := make([]string, 0, len(used)), make([]time.Time, 0, len(used))
	for id, at := range used {
		ids, instants = append(ids, id), append(instants, at)
	}
	err := c.exec(ctx, one(`
		WITH used AS (
			SELECT k.id, u.at FROM unnest($1::text[], $2::timestamptz[]) AS u (id, at) JOIN tierlimit.credentials k USING (id)
			FOR UPDATE OF k SKIP LOCKED) -- whoever changes one now is not waited for, nor in anybody's way
		UPDATE tierlimit.credentials SET last_used_at = greatest(last_used_at, used.at) FROM used WHERE credentials.id = used.id`,
		ids, instants))
	if err != nil {
		return fmt.Errorf("note %d uses: %w", len(used), err)
	}
	return nil
}
