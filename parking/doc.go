// Package parking says what kind of failure an error is: whether trying again can
// help, and when.
package parking
