// Package importtest holds the test of who may import whom. One module has no
// walls between its packages; this test stands in for them (docs/adr/0002).
//
// The rules are in rules_test.go. A broken one is mended in the package that
// broke it, or, when the direction itself should change, in the table together
// with a reason.
package importtest
