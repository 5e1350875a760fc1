// Package console serves the web console: pages on which people see and change what the admin API
// shows and changes.
//
// A page is made on the server by calls to the API, in this process, with the token of whoever is
// signed in. Roles, validation, dry runs and the audit log are therefore those of the API, and the
// console can do nothing that the API does not. Pages work without JavaScript, without a network
// and behind a proxy that adds a prefix to the path.
//
// The package is not an API: programs use the API itself.
package console
