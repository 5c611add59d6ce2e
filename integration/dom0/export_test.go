package dom0

// abandon leaves everything as a killed process does: what it changed stays, what it held open is closed.
func (d *Dom0) abandon() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lock.abandon()
	d.lock = nil
	d.release()
}
