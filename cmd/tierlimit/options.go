package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tierlimit/tierlimit"
)

// An option is one thing that can be configured: by the flag --redis-url, the
// variable TIERLIMIT_REDIS_URL, or a default, in this order. A secret can also
// stand in the file that TIERLIMIT_REDIS_URL_FILE names.
type option struct {
	name     string // as in the flag
	usage    string
	fallback string // the default
	secret   bool
	required bool
	want     string             // completes "must be ..."
	parse    func(string) error // keeps the value; its error's text is not shown

	value  string // as given, once resolved
	source string // where from: "--redis-url", "TIERLIMIT_REDIS_URL", "default"
	file   string // the file that value was read from, or ""
}

type options []*option

func (o *option) env() string {
	return "TIERLIMIT_" + strings.ToUpper(strings.ReplaceAll(o.name, "-", "_"))
}

// command is a command that runs once its options are resolved.
func (opts options) command(s streams, use, short string, run func(context.Context) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.resolve(cmd.Flags(), s.env); err != nil {
				return usage(err)
			}
			return run(cmd.Context())
		},
	}
	opts.flags(cmd.Flags())
	return cmd
}

// flags declares a flag for each option.
func (opts options) flags(fs *pflag.FlagSet) {
	for _, o := range opts {
		text := o.usage
		if o.secret {
			text += " (also " + o.env() + "_FILE)"
		}
		fs.StringVar(&o.value, o.name, "", fmt.Sprintf("%s [%s]%s", text, o.env(), defaultText(o)))
	}
}

func defaultText(o *option) string {
	switch {
	case o.required:
		return " (required)"
	case o.fallback != "":
		return " (default " + o.fallback + ")"
	default:
		return ""
	}
}

// resolve finds each option's value and keeps it, or reports all that are
// wrong: the name used, the value and what is allowed.
func (opts options) resolve(fs *pflag.FlagSet, env func(string) (string, bool)) error {
	var errs []error
	for _, o := range opts {
		given := fs.Changed(o.name) && o.value != "" // an empty flag is as good as none
		if err := o.resolve(given, env); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (o *option) resolve(given bool, env func(string) (string, bool)) error {
	if err := o.find(given, env); err != nil {
		return err
	}
	if o.value == "" && !o.required {
		return nil
	}
	if o.value != "" && o.parse(o.value) == nil {
		return nil
	}
	if o.value == "" {
		return &tierlimit.FieldError{Field: o.env() + " (or --" + o.name + ")", Want: "given: " + o.want}
	}
	return &tierlimit.FieldError{Field: o.source, Value: o.shown(), Want: o.want}
}

func (o *option) find(given bool, env func(string) (string, bool)) error {
	if given {
		o.source = "--" + o.name
		return nil
	}
	if v, ok := env(o.env()); ok && v != "" {
		o.value, o.source = v, o.env()
		return nil
	}
	if file, ok := env(o.env() + "_FILE"); ok && o.secret {
		value, err := readSecret(file)
		if err != nil {
			return &tierlimit.FieldError{Field: o.env() + "_FILE", Value: file, Want: "a file that can be read, of at most 64 KiB"}
		}
		if value == "" {
			return &tierlimit.FieldError{Field: o.env() + "_FILE", Value: file, Want: "a file that is not empty"}
		}
		o.value, o.source, o.file = value, o.env()+"_FILE", file
		return nil
	}
	o.value, o.source = o.fallback, "default"
	return nil
}

// maxSecret is the maximum size of a secret file: a wrong path must not fill memory.
const maxSecret = 64 << 10

func readSecret(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(data) > maxSecret {
		err = errors.New("larger than 64 KiB")
	}
	return strings.TrimSpace(string(data)), err
}

// renew returns a function that reads the value again, or nil if the value cannot change.
func (o *option) renew() func() (string, error) {
	if o.file == "" {
		return nil
	}
	return func() (string, error) { return readSecret(o.file) }
}

const hidden = "(hidden)"

// shown is the value for people: of a secret URL where it leads and as whom; nothing of
// another secret, nor of what is a file's text in place of its name.
func (o *option) shown() string {
	switch {
	case strings.ContainsAny(o.value, "\r\n"):
		return hidden
	case !o.secret || o.value == "":
		return o.value
	}
	u, err := url.Parse(o.value)
	if err != nil || u.Host == "" || !whole(u, o.value) || strings.Contains(u.RawQuery, "@") {
		return hidden
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	_, withPassword := u.User.Password()
	if withPassword {
		shown.User = u.User
	}
	if u.RawQuery != "" || u.User != nil && !withPassword { // a name alone may be a token
		return shown.Redacted() + " (the rest is hidden)"
	}
	return shown.Redacted()
}
