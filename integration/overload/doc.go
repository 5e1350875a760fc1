// Command overload measures what a service answers in time when more is asked of it than it can do,
// with and without something that sheds load in front of it. It writes docs/overload.md and
// docs/overload.svg: see make overload.
//
// The command runs on Linux with two processors or more. It starts a service of one processor and a
// generator of load on another one; both are this program in a process of its own.
//
// The directory is a module, so that nobody inherits what is compared here.
package main
