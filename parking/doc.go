// Package parking says what kind of failure an error is: whether trying again can
// help, and when. Its tickets connect the middleware that puts a failing message
// aside with what guards and delivers it.
package parking
