// Package helm holds the tests of the chart in the folder tierlimit.
package helm
