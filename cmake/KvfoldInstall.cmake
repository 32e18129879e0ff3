# cmake --install: libraries, header, binary, licences, pkg-config file, CMake package
# (kvfold::kvfold shared, kvfold::kvfold_static).
include(CMakePackageConfigHelpers)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/kvfold)

install(FILES include/kvfold.h include/kvfold_files.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
# What the licences of the project, and of what it took over, ask to go along with copies.
install(FILES LICENSE NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})
# kvfold_dependencies is exported because a static library hands its dependencies on.
install(TARGETS kvfold kvfold_static kvfold_dependencies EXPORT kvfoldTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(KVF_CLI)
  install(TARGETS kvfold_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

install(EXPORT kvfoldTargets NAMESPACE kvfold:: DESTINATION ${package_folder})
configure_package_config_file(cmake/kvfoldConfig.cmake.in kvfoldConfig.cmake
                              INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(kvfoldConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/kvfoldConfig.cmake
              ${PROJECT_BINARY_DIR}/kvfoldConfigVersion.cmake
        DESTINATION ${package_folder})

# The prefix in kvfold.pc is relative to the file, so that `cmake --install --prefix` and a
# moved tree both work.
file(RELATIVE_PATH KVF_PC_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(cmake/kvfold.pc.in kvfold.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/kvfold.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
