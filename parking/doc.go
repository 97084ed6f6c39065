// Package parking says what kind of failure an error is: whether trying again can
// help, and when. Its tickets connect the middleware that puts a failing message
// aside with what guards and delivers it. At a Desk people look at what is kept, and
// decide what becomes of it.
package parking
