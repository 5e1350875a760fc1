package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
)

func keysCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "See, create and revoke API keys of subjects", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(
		listCredentialsCommand(s, "/keys", "List API keys", "SUBJECT", true),
		createCredentialCommand(s, "create SUBJECT", "Create an API key of a subject; it is shown once", "/keys", "subject"),
		revokeCommand(s, "/keys", "Revoke an API key: within a second, everywhere"),
	)
	return cmd
}

func tokensCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "tokens", Short: "See, create and revoke tokens of people and services", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(
		listCredentialsCommand(s, "/tokens", "List tokens", "ROLE", false),
		createCredentialCommand(s, "create ROLE", "Create a token ("+access.RoleRule+"); it is shown once", "/tokens", "role"),
		revokeCommand(s, "/tokens", "Revoke a token: within a second, everywhere"),
	)
	return cmd
}

func listCredentialsCommand(s streams, path, short, of string, bySubject bool) *cobra.Command {
	var subject string
	cmd := adminCommand(s, "list", short, cobra.NoArgs, func(ctx context.Context, c *client, _ []string) error {
		query := make(url.Values)
		if subject != "" {
			query.Set("subject", subject)
		}
		list, err := all[access.Credential](ctx, c, path, query)
		if err != nil {
			return err
		}
		return c.show(list, func(w io.Writer) {
			fmt.Fprintf(w, "ID\tNAME\t%s\tCREATED\tEXPIRES\tLAST USED\n", of)
			for i := range list {
				one := &list[i]
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", one.ID, one.Name, one.Subject+string(one.Role),
					instantOrDash(&one.CreatedAt), instantOrDash(one.ExpiresAt), instantOrDash(one.LastUsedAt))
			}
		})
	})
	if bySubject {
		cmd.Flags().StringVar(&subject, "subject", "", "only those of this subject")
	}
	return cmd
}

func createCredentialCommand(s streams, use, short, path, field string) *cobra.Command {
	var name, expires string
	cmd := adminCommand(s, use, short, cobra.ExactArgs(1), func(ctx context.Context, c *client, args []string) error {
		body := map[string]any{"name": name, field: args[0]}
		if expires != "" {
			body["expires_at"] = expires
		}
		a, err := c.ask(ctx, http.MethodPost, path, nil, "", body)
		if err != nil {
			return err
		}
		var made access.Credential
		if err := json.Unmarshal(a.body, &made); err != nil {
			return err
		}
		return c.show(a.body, func(w io.Writer) {
			fmt.Fprintf(w, "%s\nid %s. This is shown once: keep it now.\n", made.Secret, made.ID)
		})
	})
	cmd.Flags().StringVar(&name, "name", "", "what it is called")
	cmd.Flags().StringVar(&expires, "expires", "", "when it ends, such as 2027-01-01T00:00:00Z; default never")
	_ = cmd.MarkFlagRequired("name") // it is there
	return cmd
}

func revokeCommand(s streams, path, short string) *cobra.Command {
	return removal{
		use: "revoke ID", short: short, args: 1, versioned: true,
		path: func(args []string) string { return path + "/" + url.PathEscape(args[0]) },
		check: func(args []string) error { // a secret must not be sent in a URL, which is logged
			if _, id, ok := access.Parse(args[0]); ok {
				return &tierlimit.FieldError{Field: "ID", Want: "the id, not the secret: " + id}
			}
			if !access.ValidID(args[0]) { // perhaps a secret with something around it: it is not repeated
				return &tierlimit.FieldError{Field: "ID", Want: "an id as list shows it, not a secret"}
			}
			return nil
		},
		done: did("revoked"),
	}.command(s)
}
