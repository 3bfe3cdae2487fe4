// Package listen opens the sockets of daemons that speak BuildKit's API.
package listen
