// Package tiers knows who is on which plan.
//
// A catalogue holds tiers and subjects and is what an administrator changes:
// [Memory] in one process, pgtiers in Postgres; both behave alike and pass the
// suite in tierstest. A resolver answers the engine's question, which plan is
// this subject on: [Memory] and [Static] from what they hold, [Cache] from a
// snapshot of a catalogue that lives elsewhere.
//
// A change is a [Command]. [Decide], the one place that knows the rules, says what the command
// does to a [View] of the catalogue; a catalogue reads what the rules see, and writes what they
// say with an [Event] for each thing that changes. An [Editor] makes changes one at a time.
//
// The package does not count anything and does not know Postgres.
package tiers
