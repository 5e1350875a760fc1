// Package browser looks at pages in a real Chromium.
package browser

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is how long the browser may take for what it is asked for.
const patience = 30 * time.Second

// A Browser is a running Chromium. Each Tab has cookies of its own.
type Browser struct {
	ctx  context.Context //nolint:containedctx // a chromedp browser is a context
	stop func()
}

// Start starts Chromium. Close it.
func Start() (*Browser, error) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		return nil, fmt.Errorf("chromium is not on this machine: integration/prepare chromium installs it where it may: %w", err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("no-first-run", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("hide-scrollbars", true), chromedp.Flag("lang", "en-GB"), chromedp.Env("TZ=Europe/Berlin"))
	allocated, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stop := chromedp.NewContext(allocated)
	b := &Browser{ctx: ctx, stop: func() { stop(); stopAllocator() }}
	if err := chromedp.Do(ctx); err != nil {
		b.Close()
		return nil, fmt.Errorf("start chromium: %w", err)
	}
	return b, nil
}

// Close ends Chromium.
func (b *Browser) Close() { b.stop() }

// Look is how a tab is looked at.
type Look struct {
	Width, Height int64 // default 1280 by 860
	Dark          bool
	NoScript      bool
}

// A Tab shows one page at a time, and notes what goes wrong.
type Tab struct {
	context.Context //nolint:containedctx // a chromedp tab is a context

	Close func()

	mu       sync.Mutex
	home     string // the host that pages may ask
	troubles []string
}

// Open opens a tab that may ask the host of home alone.
func (b *Browser) Open(home string, look Look) (*Tab, error) {
	u, err := url.Parse(home)
	if err != nil {
		return nil, err
	}
	if look.Width == 0 {
		look.Width, look.Height = 1280, 860
	}
	ctx, stop := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	t := &Tab{Context: ctx, Close: stop, home: u.Host}
	if err := t.prepare(look); err != nil {
		stop()
		return nil, err
	}
	return t, nil
}

// prepare makes the tab look as told, and listens to it.
func (t *Tab) prepare(look Look) error {
	scheme := "light"
	if look.Dark {
		scheme = "dark"
	}
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	_, errMedia := chromedp.Call(t, emulation.SetEmulatedMedia, media)
	_, errScript := chromedp.Call(t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: look.NoScript})
	_, errLog := chromedp.Call(t, log.Enable, cdp.Empty{})
	_, errNetwork := chromedp.Call(t, network.Enable, network.EnableParams{})
	return errors.Join(errMedia, errScript, errLog, errNetwork, chromedp.Listen(t, t.note), chromedp.Do(t, chromedp.EmulateViewport(look.Width, look.Height)))
}

func (t *Tab) note(event any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		t.troubles = append(t.troubles, "exception: "+e.ExceptionDetails.Text)
	case *log.EventEntryAdded:
		// The browser also logs statuses, which a test asks for on purpose.
		if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
			t.troubles = append(t.troubles, "console: "+e.Entry.Text)
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			t.troubles = append(t.troubles, fmt.Sprintf("console.%s", e.Type))
		}
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err == nil && u.Host != t.home && strings.HasPrefix(u.Scheme, "http") {
			t.troubles = append(t.troubles, "request to elsewhere: "+e.Request.URL)
		}
	}
}

// Troubles returns what went wrong since the last call: exceptions, errors in the console, and
// requests to other hosts.
func (t *Tab) Troubles() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.troubles
	t.troubles = nil
	return list
}

// Do runs actions.
func (t *Tab) Do(actions ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(t, patience)
	defer cancel()
	return chromedp.Do(ctx, actions...)
}

// Loaded returns once the page and its scripts are there: they move what is to be clicked on.
func (t *Tab) Loaded() error {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		done, err := Evaluate[bool](t, `document.readyState === "complete"`)
		if err != nil || done {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("the page is not complete")
		}
	}
}

// Picture returns a PNG of the window, or of the whole page.
func (t *Tab) Picture(whole bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(t, patience)
	defer cancel()
	if whole {
		return chromedp.Run(ctx, chromedp.FullScreenshot(100))
	}
	return chromedp.Run(ctx, chromedp.CaptureScreenshot())
}

// Evaluate returns the value of an expression in the page, a promise's once it is kept.
func Evaluate[T any](t *Tab, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(t, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}
