package integration

import (
	"encoding/json"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/tierlimit/tierlimit/integration/browser"
	"github.com/tierlimit/tierlimit/integration/demo"
	"github.com/tierlimit/tierlimit/integration/rig"
	"github.com/tierlimit/tierlimit/integration/servers"
)

// A consoleSite is a replica with customers, and a browser that looks at its console.
type consoleSite struct {
	*testing.T
	demo.Site
	home    string
	browser *browser.Browser
}

func newConsoleSite(t *testing.T) *consoleSite {
	t.Helper()
	file, err := binary()
	must(t, err)
	counters, err := servers.Redis() // of its own: names of customers are those of other tests
	must(t, err)
	t.Cleanup(counters.Stop)
	database := newDatabase(t)
	r, err := rig.StartReplica(file, "--redis-url", counters.URL, "--database-url", database, "--admin-token", adminToken, "--load-fixed", "0.5")
	must(t, err)
	t.Cleanup(r.Kill)
	s := &consoleSite{T: t, Site: demo.Site{Public: r.Public, Admin: r.Admin, Token: adminToken, Database: database}, home: r.Admin + "/console/"}
	must(t, s.Fill(t.Context()))
	s.browser, err = browser.Start()
	must(t, err)
	t.Cleanup(s.browser.Close)
	return s
}

// A consoleTab is somebody who is signed in to the console.
type consoleTab struct {
	*browser.Tab
	site *consoleSite
	t    *testing.T
}

func (s *consoleSite) signIn(t *testing.T, token string, look browser.Look) *consoleTab {
	t.Helper()
	tab, err := s.browser.Open(s.home, look)
	must(t, err)
	t.Cleanup(tab.Close)
	c := &consoleTab{tab, s, t}
	c.does(chromedp.Navigate(s.home), chromedp.SendKeys("#token", token), chromedp.Submit("#token"), chromedp.WaitVisible(".side"))
	return c
}

// does runs actions, and wants nothing to go wrong in the page.
func (c *consoleTab) does(actions ...chromedp.Action[chromedp.Void]) {
	c.t.Helper()
	if err := c.Do(actions...); err != nil {
		text, _ := browser.Evaluate[string](c.Tab, `location.href + "\n" + document.body.innerText`)
		c.t.Fatalf("%v: on %s", err, text)
	}
	if troubles := c.Troubles(); len(troubles) > 0 {
		c.t.Errorf("%s", troubles)
	}
}

func (c *consoleTab) goes(page string) {
	c.t.Helper()
	c.does(chromedp.Navigate(c.site.home + page))
	must(c.t, c.Loaded())
}

// says reports an error unless the page shows all words.
func (c *consoleTab) says(words ...string) {
	c.t.Helper()
	text, err := browser.Evaluate[string](c.Tab, `document.body.innerText`)
	must(c.t, err)
	for _, word := range words {
		if !strings.Contains(text, word) {
			c.t.Errorf("the page does not say %q: %s", word, text)
		}
	}
}

// clicks presses an element that leads to another page, and waits for something there.
func (c *consoleTab) clicks(what, there string) {
	c.t.Helper()
	c.does(chromedp.Click(what), chromedp.WaitVisible(there))
	must(c.t, c.Loaded())
}

// applies reviews a form and applies it.
func (c *consoleTab) applies() {
	c.t.Helper()
	c.clicks(`button[value=review]`, `.review`)
	c.clicks(`button[value=apply]`, `.note.good`)
}

const reviewed, done = `.review`, `.note.good`

// Each screen passes the accessibility checks, fits a phone, and asks nobody else for anything.
func TestTheScreensOfTheConsole(t *testing.T) {
	script := os.Getenv("TEST_AXE")
	if script == "" {
		t.Fatal("TEST_AXE is not set: `make integration` sets it to the file of axe-core")
	}
	axe, err := os.ReadFile(script)
	must(t, err)
	s := newConsoleSite(t)
	pages := []string{
		"./", "subjects", "subjects?status=past_due", "subjects?prefix=nobody", "subject?id=acct_42", "subject?id=ip%3A203.0.113.7", "tiers", "tier?key=team",
		"bulk", "keys", "keys?subject=nobody", "tokens", "webhooks", "webhook?id=nobody", "change?do=create-webhook", "load", "audit", "audit?actor=nobody", "nothing",
		"change?do=plan&id=acct_42", "change?do=create-override&id=acct_42", "change?do=tier&key=team", "change?do=create-tier",
		"change?do=delete-subject&id=acct_1003", "change?do=reset&id=acct_42", "change?do=pin&key=free", "change?do=create-token",
	}
	for name, look := range map[string]browser.Look{"light": {}, "dark": {Dark: true}, "phone": {Width: 390, Height: 844}} {
		t.Run(name, func(t *testing.T) {
			c := s.signIn(t, adminToken, look)
			for _, page := range append([]string{"sign-in"}, pages...) {
				c.goes(page)
				c.isAccessible(page, string(axe))
				wide, err := browser.Evaluate[bool](c.Tab, `document.documentElement.scrollWidth > innerWidth`)
				must(t, err)
				if wide {
					t.Errorf("%s is wider than the window", page)
				}
			}
		})
	}
}

// isAccessible reports what axe-core finds wrong with the page.
func (c *consoleTab) isAccessible(page, axe string) {
	c.t.Helper()
	if _, err := browser.Evaluate[any](c.Tab, axe+"; null"); err != nil {
		c.t.Fatal(err)
	}
	text, err := browser.Evaluate[string](c.Tab, `axe.run({resultTypes: ["violations"]}).then(r => JSON.stringify(r.violations.map(v => ({
		rule: v.id, help: v.help, nodes: v.nodes.map(n => n.html + " " + n.failureSummary)}))))`)
	must(c.t, err)
	var violations []struct {
		Rule, Help string
		Nodes      []string
	}
	must(c.t, json.Unmarshal([]byte(text), &violations))
	for _, v := range violations {
		c.t.Errorf("%s: %s: %s: %s", page, v.Rule, v.Help, strings.Join(v.Nodes, "\n"))
	}
}

// By console alone a customer is found, put on another plan, and back again: also without scripts.
func TestACustomerIsPutOnAnotherPlanInTheConsole(t *testing.T) {
	s := newConsoleSite(t)
	for name, look := range map[string]browser.Look{"with scripts": {}, "without scripts": {NoScript: true}} {
		t.Run(name, func(t *testing.T) {
			c := s.signIn(t, adminToken, look)
			c.goes("subjects")
			c.does(chromedp.SendKeys("#prefix", "acct_1002"))
			c.clicks(`button[name=find]`, `h1.id`)
			if look.NoScript {
				c.says(" UTC")
			}
			c.clicks(`.actions a[href*="do=plan"]`, `#f-tier`)
			c.does(chromedp.SetValue("#f-tier", "pro"))
			c.clicks(`button[value=review]`, reviewed)
			c.says("Nothing has been changed yet", "per_month", "100,000")
			c.clicks(`button[value=apply]`, done)
			c.says("Changed subject acct_1002", "free → pro", "Undo")
			c.clicks(`.note.good a`, reviewed)
			c.clicks(`button[value=apply]`, done)
			c.says("pro → free")
		})
	}
}

func TestTheTasksOfTheConsole(t *testing.T) {
	s := newConsoleSite(t)
	c := s.signIn(t, adminToken, browser.Look{})
	t.Run("an override is made, and its limit is in force", func(t *testing.T) {
		c := c.in(t)
		c.goes("change?do=create-override&id=acct_1004&limit=per_minute")
		c.does(chromedp.SendKeys("#f-max", "4,321"), chromedp.SetValue("#f-expires_at", "2990-01-01T00:00"), chromedp.SendKeys("#f-reason", "a launch"))
		c.applies()
		c.says("of 4,321", "override", "a launch")
	})
	t.Run("a mistake stays in the form", func(t *testing.T) {
		c := c.in(t)
		c.goes("change?do=create-override&id=acct_1005")
		c.does(chromedp.SendKeys("#f-max", "many"), chromedp.SetValue("#f-expires_at", "2990-01-01T00:00"), chromedp.SendKeys("#f-reason", "a launch"))
		c.clicks(`button[value=review]`, `#f-max-error`)
		typed, err := browser.Evaluate[string](c.Tab, `document.getElementById("f-max").value + " " + document.getElementById("f-reason").value`)
		must(t, err)
		if typed != "many a launch" {
			t.Errorf("the form has %q", typed)
		}
	})
	t.Run("a limit is changed, and who would be denied is shown before", func(t *testing.T) {
		c := c.in(t)
		c.goes("tiers")
		c.clicks(`a[href="tier?key=team"]`, `.rows`)
		c.clicks(`.actions .primary`, `#f-name`)
		c.does(chromedp.SetValue(`[name="limits.per_month.max"]`, "30000"))
		c.clicks(`button[value=review]`, reviewed)
		c.says("would deny the next request", "acct_1001", "49,1")
		c.clicks(`button[value=apply]`, done)
		c.says("50,000 → 30,000")
	})
	t.Run("what takes something away is asked for once more", func(t *testing.T) {
		c := c.in(t)
		c.goes("change?do=delete-subject&id=acct_1008")
		c.does(chromedp.Click(`button[value=apply]`), chromedp.WaitVisible(`dialog`), chromedp.Click(`dialog button:not(.stern)`), chromedp.WaitNotPresent(`dialog`))
		c.says("Nothing has been changed yet")
		c.does(chromedp.Click(`button[value=apply]`), chromedp.WaitVisible(`dialog`))
		c.clicks(`dialog .stern`, done)
		c.says("Deleted subject", "default tier")
	})
	t.Run("a key is made", func(t *testing.T) {
		c := c.in(t)
		c.goes("change?do=create-key&id=acct_42")
		c.does(chromedp.SendKeys("#f-name", "a third"))
		c.clicks(`button[value=review]`, reviewed)
		c.clicks(`button[value=apply]`, `.secret`)
		secret, err := browser.Evaluate[string](c.Tab, `document.querySelector(".secret input").value`)
		must(t, err)
		if !strings.HasPrefix(secret, "tl_key_") {
			t.Errorf("the secret is %q", secret)
		}
	})
	t.Run("load is pinned", func(t *testing.T) {
		c := c.in(t)
		c.goes("load")
		c.clicks(`a[href="change?do=pin&key=free"]`, `.fields`)
		c.does(chromedp.SetValue(`[name="pins.free.multiplier"]`, "0.25"))
		c.applies()
		c.says("× 0.25")
	})
	t.Run("subjects are imported and moved", func(t *testing.T) {
		c := c.in(t)
		c.goes("bulk")
		c.does(chromedp.SendKeys("#text", `{"id":"many_1","tier":"free"}`+"\n"+`{"id":"many_2","tier":"free"}`))
		c.clicks(`[action=import] button[value=check]`, `[action=import] .note.good`)
		c.clicks(`[action=import] button[value=apply]`, `.progress .note.good`)
		c.says("Import is done", "2 created")
		c.goes("bulk?prefix=many_")
		c.does(chromedp.SetValue("#to", "pro"))
		c.clicks(`[action=move] button[value=check]`, `[action=move] .note.good`)
		c.clicks(`[action=move] button[value=apply]`, `.progress .note.good`)
		c.says("Move is done", "2 changed")
	})
	t.Run("times are in the reader's zone, with UTC on hover", func(t *testing.T) {
		c := c.in(t)
		c.goes("audit?object=many_1")
		title, err := browser.Evaluate[string](c.Tab, `(() => { const t = document.querySelector("time"); return t.textContent.includes("UTC") ? "" : t.title })()`)
		must(t, err)
		if !strings.HasSuffix(title, " UTC") {
			t.Errorf("the title of a time is %q", title)
		}
	})
	t.Run("the overview is live", func(t *testing.T) {
		c := c.in(t)
		c.goes("./")
		must(t, s.Take(t.Context(), "acct_1020", 1, 0))
		changed := `new Promise(done => new MutationObserver(() => done(true)).observe(document.getElementById("live"), {childList: true}))`
		if is, err := browser.Evaluate[bool](c.Tab, changed); err != nil || !is {
			t.Errorf("the overview does not change: %v", err)
		}
	})
	t.Run("the keyboard skips the navigation", func(t *testing.T) {
		c := c.in(t)
		c.goes("subjects")
		c.does(chromedp.KeyEvent("\t"), chromedp.KeyEvent("\r"))
		if id, err := browser.Evaluate[string](c.Tab, `document.activeElement.id`); err != nil || id != "main" {
			t.Errorf("the focus is on %q: %v", id, err)
		}
	})
}

// in returns c for a subtest.
func (c *consoleTab) in(t *testing.T) *consoleTab { return &consoleTab{c.Tab, c.site, t} }

// A viewer sees everything and no button, and the server refuses what has no button.
func TestAViewerOfTheConsole(t *testing.T) {
	s := newConsoleSite(t)
	token, err := s.NewToken(t.Context(), "viewer")
	must(t, err)
	c := s.signIn(t, token, browser.Look{})
	for _, page := range []string{"./", "subjects", "subject?id=acct_42", "tiers", "tier?key=free", "keys", "tokens", "webhooks", "load", "audit"} {
		c.goes(page)
		n, err := browser.Evaluate[int](c.Tab, `document.querySelectorAll('a[href^="change"], a[href^="bulk"], main form[method=post]').length`)
		must(t, err)
		if n > 0 {
			t.Errorf("%s has %d buttons", page, n)
		}
	}
	c.goes("change?" + url.Values{"do": {"plan"}, "id": {"acct_42"}}.Encode())
	c.says("403", "Your role, viewer, does not allow this")
}
