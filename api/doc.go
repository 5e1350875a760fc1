// Package api serves decisions and their administration over HTTP.
//
// [Public] is what applications ask: take, peek, usage, load. [Admin] is what
// administrators change: tiers, subjects, usage. They belong on listeners of
// their own. The package translates; it decides nothing and stores nothing.
package api
