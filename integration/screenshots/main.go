// Screenshots starts a replica with customers, and writes pictures of the console.
//
//	go run ./integration/screenshots -o docs/images
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/tierlimit/tierlimit/integration/browser"
	"github.com/tierlimit/tierlimit/integration/demo"
	"github.com/tierlimit/tierlimit/integration/rig"
	"github.com/tierlimit/tierlimit/integration/servers"
)

const token = "owner-token-of-the-pictures"

func main() {
	out := flag.String("o", "docs/images", "the folder that pictures are written to")
	wait := flag.Duration("traffic", 5*time.Minute, "how long customers ask before the pictures are taken: the chart of the overview shows it")
	all := flag.Bool("all", false, "also pictures of the pages that the documentation does not show")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *out, *wait, *all); err != nil {
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string, wait time.Duration, all bool) error {
	folder, err := os.MkdirTemp("", "tierlimit-screenshots-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	binary := filepath.Join(folder, "tierlimit")
	if text, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/tierlimit/tierlimit/cmd/tierlimit").CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w: %s", err, text)
	}
	redis, err := servers.Redis()
	if err != nil {
		return err
	}
	defer redis.Stop()
	postgres, err := servers.Postgres()
	if err != nil {
		return err
	}
	defer postgres.Stop()
	replica, err := rig.StartReplica(binary, "--redis-url", redis.URL, "--database-url", postgres.URL, "--admin-token", token, "--load-fixed", "0.74", "--budget", "500ms", "--history-retention", "10000h")
	if err != nil {
		return err
	}
	defer replica.Kill()
	site := demo.Site{Public: replica.Public, Admin: replica.Admin, Token: token, Database: postgres.URL}
	if err := site.Fill(ctx); err != nil {
		return err
	}
	driving, stop := context.WithTimeout(ctx, wait)
	defer stop()
	site.Drive(driving)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	b, err := browser.Start()
	if err != nil {
		return err
	}
	defer b.Close()
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, p := range pictures {
		if p.more && !all {
			continue
		}
		if err := p.take(b, replica.Admin+"/console/", out); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// A picture is one of a page.
type picture struct {
	name, page string
	look       browser.Look
	before     []chromedp.Action[chromedp.Void] // on the page
	more       bool                             // the documentation does not show it
}

var phone = browser.Look{Width: 390, Height: 844}

var pictures = []picture{
	{name: "overview", page: "./", look: browser.Look{Width: 1280, Height: 1120}},
	{name: "overview-dark", page: "./", look: browser.Look{Width: 1280, Height: 1120, Dark: true}},
	{name: "subject", page: "subject?id=acct_42", look: browser.Look{Width: 1280, Height: 1132}},
	{name: "tier-effect", page: "change?do=tier&key=team", look: browser.Look{Width: 1280, Height: 620}, before: []chromedp.Action[chromedp.Void]{
		chromedp.SetValue(`[name="limits.per_month.max"]`, "30000"), chromedp.Click(`[value=review]`), chromedp.WaitVisible(`.review`),
	}},
	{name: "audit", page: "audit", look: browser.Look{Width: 1280, Height: 640}},

	{name: "subject-phone", page: "subject?id=acct_42", look: phone, more: true},
	{name: "signin", page: "sign-in", more: true},
	{name: "subjects", page: "subjects", more: true},
	{name: "subjects-phone", page: "subjects", look: phone, more: true},
	{name: "tiers", page: "tiers", more: true},
	{name: "tier", page: "tier?key=team", more: true},
	{name: "tier-edit", page: "change?do=tier&key=team", more: true},
	{name: "override", page: "change?do=create-override&id=acct_42", more: true},
	{name: "plan", page: "change?do=plan&id=acct_1002", more: true, before: []chromedp.Action[chromedp.Void]{
		chromedp.SetValue(`[name=tier]`, "team"), chromedp.Click(`[value=review]`), chromedp.WaitVisible(`.review`),
	}},
	{name: "done", page: "change?do=plan&id=acct_1002", more: true, before: []chromedp.Action[chromedp.Void]{
		chromedp.SetValue(`[name=tier]`, "team"), chromedp.Click(`[value=review]`), chromedp.WaitVisible(`.review`), chromedp.Click(`[value=apply]`), chromedp.WaitVisible(`.note.good`),
	}},
	{name: "mistake", page: "change?do=create-override&id=acct_42", more: true, before: []chromedp.Action[chromedp.Void]{
		chromedp.SetValue(`[name=max]`, "plenty"), chromedp.SetValue(`[name=expires_at]`, "2027-01-01T00:00"), chromedp.SetValue(`[name=reason]`, "launch day"),
		chromedp.Click(`[value=review]`), chromedp.WaitVisible(`.error`),
	}},
	{name: "import", page: "bulk", more: true, before: []chromedp.Action[chromedp.Void]{
		chromedp.SetValue(`#text`, `{"id":"acct_2000","tier":"pro"}`), chromedp.Click(`[action=import] [value=check]`), chromedp.WaitVisible(`.note.good`),
	}},
	{name: "load", page: "load", more: true},
	{name: "keys", page: "keys", more: true},
	{name: "tokens-dark", page: "tokens", look: browser.Look{Dark: true}, more: true},
	{name: "bulk", page: "bulk", more: true},
	{name: "delete", page: "change?do=delete-subject&id=acct_1003", more: true, before: []chromedp.Action[chromedp.Void]{chromedp.Click(`[value=apply]`), chromedp.WaitVisible(`dialog`)}},
	{name: "overview-phone", page: "./", look: phone, more: true},
	{name: "subject-dark", page: "subject?id=acct_42", look: browser.Look{Dark: true}, more: true},
	{name: "subject-unknown", page: "subject?id=ip%3A203.0.113.7", more: true},
}

// take signs in, goes to the page and writes the picture of all of it.
func (p *picture) take(b *browser.Browser, home, out string) error {
	tab, err := b.Open(home, p.look)
	if err != nil {
		return err
	}
	defer tab.Close()
	actions := []chromedp.Action[chromedp.Void]{chromedp.Navigate(home + "sign-in")}
	if p.page != "sign-in" {
		actions = append(actions, chromedp.SendKeys("#token", token), chromedp.Submit("#token"), chromedp.WaitVisible(".side"), chromedp.Navigate(home+p.page))
	}
	if err := tab.Do(append(actions, p.before...)...); err != nil {
		return err
	}
	png, err := tab.Picture(p.more)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "console-"+p.name+".png"), png, 0o644)
}
