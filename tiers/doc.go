// Package tiers knows who is on which plan.
//
// A catalogue holds tiers and subjects and is what an administrator changes:
// [Memory] in one process, pgtiers in Postgres; both behave alike and pass the
// suite in tierstest. A resolver answers the engine's question, which plan is
// this subject on: [Memory] and [Static] from what they hold, [Cache] from a
// snapshot of a catalogue that lives elsewhere.
//
// A change is a [Command]. [Decide] implements the rules: from a [View] of the catalogue it
// computes the edits of a command. A catalogue provides the View, and writes the edits with
// an [Event] for each. An [Editor] makes changes one at a time.
//
// The package does not count anything and does not know Postgres.
package tiers
