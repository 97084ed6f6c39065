// Package doctest checks that what documentation says about tests is so.
package doctest
