// Package events tells webhooks what happens to customers: that a limit is nearly used up
// (limit.threshold), that it no longer is (limit.recovered), and that an administrator changed a
// subject (subject.changed).
//
// Messages are kept in a [tiers.Outbox] until they are received: each is sent at least once, and
// always with the same id. They are signed as Standard Webhooks say
// (https://www.standardwebhooks.com), so that receivers can use its libraries.
package events
