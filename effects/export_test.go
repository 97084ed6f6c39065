package effects

import "time"

// Shorten gives a client times that are too short to be configured.
func Shorten(c *Client, timeout, claimTTL time.Duration) {
	c.cfg.Provider.Timeout, c.cfg.ClaimTTL = timeout, claimTTL
}
