# SPDX-License-Identifier: Apache-2.0
# Optional: let Vivado check component.xml and add what only Vivado writes (a page of settings,
# checksums):  vivado -mode batch -source package_ip.tcl
# Without this, the folder is an IP repository as it is.
set here [file dirname [file normalize [info script]]]
source [file join $here settings.tcl]

create_project -in_memory package_$name
ipx::open_core [file join $here component.xml]
set core [ipx::current_core]
ipx::create_xgui_files $core
ipx::update_checksums $core
if {![ipx::check_integrity $core]} {
    error "Vivado finds component.xml of $name incomplete: see the messages above"
}
ipx::save_core $core
puts "packaged $name: add $here to the IP repositories of a project"
close_project
